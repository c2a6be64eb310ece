"""Settings of the embedded PostgreSQL server and of initdb."""

LOOPBACK = "127.0.0.1"
SUPERUSER = "postgres"

# For two cores and a few gigabytes. They are passed on the command line, so that they also apply to
# a data folder that an older version of Annals created.
SERVER_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "100",
    "max_locks_per_transaction": "256",  # every follower and writer holds advisory locks
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "random_page_cost": "1.1",
    "jit": "off",  # the wheel does not contain LLVM
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "wal_level": "replica",  # pg_basebackup needs it
    "wal_buffers": "16MB",
    "wal_compression": "lz4",
    "min_wal_size": "256MB",
    "max_wal_size": "2GB",  # so that a bulk load does not force a checkpoint every few seconds
    "checkpoint_timeout": "15min",
    "autovacuum_naptime": "10s",  # so that new read tables are analyzed soon
    "timezone": "GMT",  # needs no zone files, which a minimal system may lack
    "log_timezone": "GMT",
    "logging_collector": "on",
    "log_filename": "postgresql-%a.log",  # one file per weekday, overwritten after a week
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %u@%d ",
    "cluster_name": "annals",
}
# Sorting by code point is the same on every machine. The character classes come from the system,
# because `lower` uses them: lists are sorted by names in lower case.
INITDB_ARGUMENTS = (
    f"--username={SUPERUSER}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    "--lc-ctype=C.UTF-8",
    "--no-instructions",
)

"""Every class of advisory lock that Annals takes, so that no two uses share a number.

PostgreSQL keeps advisory locks of two forms apart. A lock with two keys of 32 bits has its class as
the first key, and a number or the hash of a name as the second. A lock with one key of 64 bits has
its class in the top byte. Numbers are unique over both forms. "Released" means that a migration in
eventlog/sql has the number written out, so it cannot change.
"""

from __future__ import annotations

from eventlog.connections import Connection

WRITER_LOCK = 65
"""Released in 0001, one key: the position above which a writing transaction takes positions."""
ACCOUNT_LOCK = 66
"""An account, by its id: shared to add entities to it, exclusive to delete, restore or merge it."""
INSTALL_LOCK = (67, 1)
"""The creation of read tables."""
PROJECTION_LOCK = 68
"""The projector of a projection, by name; shared by consumers of Kafka."""
REBUILD_LOCK = 69
"""The rebuild or rollback of a projection, by name."""
SHADOW_LOCK = 70
"""The sessions that fill the shadow tables of a projection, by name: shared by them, exclusive for
the next rebuild, which drops what they have written."""
RELAY_LOCK = 71
"""The relay to a Kafka topic, by name."""
ANALYSIS_LOCK = 72
"""The run of an analyst's projection, by schema."""
MIGRATION_LOCK = (73, 1)
"""Migrations: exclusive for a migration, shared for a backup."""
LEADER_LOCK = 74
"""The process that leads a duty, by the name of the duty."""
REQUEST_LOCK = 75
"""Released in 0004 for requests of projection jobs, by projection, and in 0005, with the key 1, for
creating and dropping the partitions of answers to requests with an idempotency key."""
PROJECTION_JOB_LOCK = 76
"""The process that carries out a projection job, by the id of the job."""
WORKSPACE_LOCK = 83
"""Changes to the rows of a workspace by consumers of Kafka, by the workspace's hash modulo 64."""
EXPORT_LOCK = 88
"""A projection's read tables, by name: shared by exports, which read them for minutes, exclusive
for a swap. If a swap waited for the tables instead, every short read would queue behind it."""
CLAIMED_TIME_LOCK = 90
"""Released in 0009: the time of a member, by the hash of workspace and member."""
IMPORT_START_LOCK = 91
"""The start of an import into a workspace, by its id."""
IDEMPOTENCY_LOCK = 92
"""One key: a request with an idempotency key."""
JOB_LOCK = 93
"""One key: the worker of a job."""
ROLES_LOCK = (94, 1)
"""The creation of the database and its roles."""

TRY_LOCK = "SELECT pg_try_advisory_lock(%s, hashtext(%s))"
UNLOCK = "SELECT pg_advisory_unlock(%s, hashtext(%s))"


def one_key(lock_class: int, name: str = "%s") -> str:
    """SQL for the key of a lock with one key: the class, and 56 bits of the hash of a name.

    name: SQL for the name, by default a parameter.
    """
    return f"({lock_class}::bigint << 56) | (hashtextextended({name}, 0) & ((1::bigint << 56) - 1))"


def try_lock(connection: Connection, lock_class: int, name: str) -> bool:
    """Take an exclusive lock for the session; False if another session holds it."""
    row = connection.execute(TRY_LOCK, (lock_class, name)).fetchone()
    return bool(row and row[0])

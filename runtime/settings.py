"""All settings of a running Annals."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal
from zoneinfo import available_timezones

from pydantic import Field, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from domain.api_key import Role

REPOSITORY = Path(__file__).resolve().parent.parent

Network = IPv4Network | IPv6Network


def parse_networks(text: str) -> list[Network]:
    """Parse addresses and networks, separated by commas. Raises `ValueError`."""
    return [ip_network(each) for each in map(str.strip, text.split(",")) if each]


ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")


def parse_origins(text: str) -> list[str]:
    """Parse origins that are separated by commas. Raises `ValueError`."""
    origins = [each for each in map(str.strip, text.lower().split(",")) if each]
    for each in origins:
        if each != "*" and not ORIGIN.fullmatch(each):
            raise ValueError(f"{each!r} is no origin, such as https://crm.example")
    return origins


ROUTE_CLASSES = ("reads", "writes", "bulk", "streams")
"""Classes of routes with a rate of their own; api/http/limits/keys.py says which are in which."""


def parse_role_rates(text: str) -> dict[tuple[str, str], int]:
    """Parse `role.class=requests`, separated by commas, by role and class. Raises `ValueError`."""
    rates = {}
    for each in filter(None, map(str.strip, text.split(","))):
        name, _, requests = each.partition("=")
        role, _, class_ = name.strip().partition(".")
        if class_ not in ROUTE_CLASSES or not requests.strip().isdecimal():
            raise ValueError(f"{each!r} is not of the form role.reads=600")
        rates[Role(role).value, class_] = int(requests)
    return rates


class SecretFiles(SecretsSettingsSource):
    """Settings from files in `secrets_dir`; an empty file sets nothing, as an empty variable."""

    def __call__(self) -> dict[str, Any]:
        """Return the settings that have a file with content. Raises OSError."""
        return {name: value for name, value in super().__call__().items() if value != ""}


class Settings(BaseSettings):
    """Settings from environment variables: ANNALS_PORT=9000 sets `port`, and so on.

    Each may also be a file of that name in the folder `secrets_dir`; a variable has precedence.
    Names of durations and of sizes in bytes end in the unit. A value out of range raises
    pydantic.ValidationError at the start, which the command line reports in one sentence.
    """

    model_config = SettingsConfigDict(env_prefix="ANNALS_", env_ignore_empty=True, frozen=True)

    home: Path = REPOSITORY / ".annals"
    """Folder of the data, the access token and connection.json."""
    secrets_dir: Path | None = None
    """Folder with one file for each secret, such as `annals_app_url`: /run/secrets in a container,
    the credentials of a systemd unit. It is read at the start of each process."""
    host: str = "127.0.0.1"
    """Address that the API listens on."""
    port: int = Field(default=8321, ge=1, le=65_535)
    """TCP port that the API listens on."""

    owner_url: str | None = None
    """PostgreSQL URL of the role that owns the tables and runs migrations."""
    app_url: str | None = None
    """PostgreSQL URL of the API's role, which owns nothing and is subject to row-level security."""
    projector_url: str | None = None
    """PostgreSQL URL of the projector's role."""
    sender_url: str | None = None
    """PostgreSQL URL of the sender's role. If the other three are set and this one is not,
    `annals up` runs no sender."""
    superuser_url: str | None = None
    """URL with which `annals migrate` creates the database and roles of the other URLs. If it names
    a superuser, `annals backup` reads the log with it. Never give it to a serving process."""

    body_max_bytes: int = Field(default=1_048_576, ge=1_024)
    """Maximum size of a request body in bytes."""
    bulk_body_max_bytes: int = Field(default=5_242_880, ge=1_024)
    """Maximum size of the body of POST /api/bulk in bytes; it may name 100,000 ids."""
    import_max_bytes: int = Field(default=52_428_800, ge=1_024, le=200_000_000)
    """Maximum size in bytes of a file imported over HTTP. The command line allows 200,000,000."""
    import_upload_timeout_s: float = Field(default=300.0, gt=0, le=3_600)
    """Seconds within which the upload of such a file has to be complete."""
    import_kept_s: int = Field(default=604_800, ge=3_600, le=31_536_000)
    """Seconds after which an import's files and failed rows are deleted. Its events stay."""
    import_preview_rows_max: int = Field(default=20_000, ge=1, le=500_000)
    """Maximum number of rows of an import that a preview evaluates."""
    page_size_default: int = Field(default=50, ge=1)
    """Rows of a list page if the request gives no page size."""
    page_size_max: int = Field(default=500, ge=1, le=10_000)
    """Maximum number of rows of a list page."""
    min_position_wait_ms: int = Field(default=5_000, ge=0, le=60_000)
    """Maximum time in milliseconds that a read waits for Annals-Min-Position."""

    poll_interval_ms: int = Field(default=200, ge=1, le=60_000)
    """Milliseconds between two reads of the log if no hint arrives."""
    projection_batch_size: int = Field(default=2_000, ge=1, le=100_000)
    """Maximum number of events that a projector folds into one transaction."""

    rebuild_changed: bool = False
    """Have a projector rebuild, once each, the projections whose rows were made by other code. Only
    where no two versions of the code run at once. `annals up` does so if this is not set."""

    source: Literal["log", "kafka"] = "log"
    """What a projector reads: the log, or the Kafka topic that `annals relay` publishes it to."""
    kafka_bootstrap: str = "127.0.0.1:9092"
    """Kafka brokers as `host:port`, separated by commas."""
    kafka_topic: str = Field(default="annals.events", min_length=1, max_length=249)
    """The topic that the log is published to."""
    kafka_partitions: int = Field(default=12, ge=1, le=1_000)
    """Partitions of the topic when it is created, and so the maximum number of its projectors."""
    kafka_group: str = Field(default="annals-projectors", min_length=1)
    """The consumer group in which projectors share the partitions."""
    kafka_session_timeout_ms: int = Field(default=6_000, ge=1_000, le=300_000)
    """Milliseconds without a heartbeat after which a projector loses its partitions to others."""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """The protocol of connections to Kafka."""
    kafka_sasl_mechanism: str | None = None
    """With SASL: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."""
    kafka_sasl_username: str | None = None
    """With SASL: the user name."""
    kafka_sasl_password: str | None = None
    """With SASL: the password."""
    kafka_ssl_cafile: str | None = None
    """With SSL: a file with the trusted certificate authorities."""

    disk_folder: Path | None = None
    """A folder on the disk of the database, whose free space metrics and health show. `annals up`
    sets it to the data of its own server."""
    disk_free_min_bytes: int = Field(default=268_435_456, ge=0)
    """Free bytes below which `annals up` refuses writes to its own server, so that reads go on."""
    disk_free_warn_bytes: int = Field(default=2_147_483_648, ge=0)
    """Free bytes below which health has a remark."""
    backup_age_warn_s: int = Field(default=172_800, ge=0)
    """Seconds since the last `annals backup` after which health has a remark. 0: it never has, for
    a database that other programs back up."""

    idempotency_window_s: int = Field(default=86_400, ge=60, le=2_592_000)
    """Seconds within which a repeated request with the same idempotency key gets the first
    response again. Responses are dropped by partition, some hours after the window."""

    write_threads_max: int = Field(default=12, ge=1, le=200)
    """Maximum number of concurrent writes; each holds at most one database connection."""
    write_queue_max: int = Field(default=500, ge=1, le=10_000)
    """Maximum number of waiting writes. More get 503."""
    read_connections_max: int = Field(default=8, ge=1, le=200)
    """Maximum number of database connections for reads."""
    exports_max: int = Field(default=4, ge=1, le=50)
    """Maximum number of concurrent exports, each over its own connection. More get 503."""
    exports_per_workspace_max: int = Field(default=2, ge=1, le=50)
    """Maximum number of concurrent exports of one workspace. More get 429."""
    export_timeout_s: float = Field(default=600.0, gt=0, le=86_400)
    """Seconds after which an export is aborted. While its snapshot is open, PostgreSQL cannot
    remove old row versions."""
    export_stall_timeout_s: float = Field(default=30.0, gt=0, le=3_600)
    """Seconds after which an export is aborted if its client reads nothing."""
    body_timeout_s: float = Field(default=20.0, gt=0, le=600)
    """Seconds within which a request body has to be complete."""
    http_head_max_bytes: int = Field(default=32_768, ge=1_024, le=1_048_576)
    """Maximum size in bytes of a request's head: the URL and all headers. A larger one gets 431."""
    http_headers_max: int = Field(default=100, ge=10, le=10_000)
    """Maximum number of headers and trailers of a request. More get 431."""
    http_url_max_bytes: int = Field(default=8_192, ge=256, le=1_048_576)
    """Maximum length of a URL in bytes. A longer one gets 414."""
    http_head_timeout_s: float = Field(default=10.0, gt=0, le=600)
    """Seconds within which the head of a request has to be complete, after the connection was
    opened or after the head began. Otherwise the connection is closed."""
    http_idle_timeout_s: int = Field(default=30, ge=1, le=3_600)
    """Seconds after which a connection without a request is closed."""
    http_connections_max: int = Field(default=6_000, ge=10, le=1_000_000)
    """Maximum number of connections of one process. More get 503."""
    http_connections_per_address_max: int = Field(default=2_000, ge=1, le=1_000_000)
    """Maximum number of connections of one client address; trusted proxies have no such limit."""
    trusted_proxies: str = ""
    """Addresses and networks of proxies, separated by commas (`10.0.0.2,172.16.0.0/12`). Only from
    these the client's address is taken from X-Forwarded-For, and `https` from X-Forwarded-Proto."""
    allowed_hosts: str = ""
    """Names under which the API is called, separated by commas (`crm.example,*.crm.example,[::1]`),
    with a port if only that one is meant. Other hosts get 421, except at /livez. If it is empty,
    every host is served."""

    cors_origins: str = ""
    """Origins of browser applications that may call the API, separated by commas
    (`https://crm.example,http://localhost:5173`), or `*` for all. Without it, none may. Keys are
    sent in a header, so cookies are never allowed."""

    rate_reads_per_minute: int = Field(default=60_000, ge=0, le=10_000_000)
    """Maximum number of reads by one API key per minute, in each API process. More get 429, as with
    the following three. 0 sets no limit."""
    rate_writes_per_minute: int = Field(default=30_000, ge=0, le=10_000_000)
    """Maximum number of writes by one API key per minute, in each API process."""
    rate_bulk_per_minute: int = Field(default=3_000, ge=0, le=10_000_000)
    """Maximum number of requests for imports, bulk changes and undo by one API key per minute."""
    rate_streams_per_minute: int = Field(default=6_000, ge=0, le=10_000_000)
    """Maximum number of exports and streams that one API key opens per minute."""
    rate_by_role: str = ""
    """Other values of these for keys of a role, separated by commas
    (`read-only.reads=600,analyst.streams=10`)."""
    rate_workspace_keys: int = Field(default=4, ge=0, le=10_000)
    """All keys of a workspace together may send as many requests as this number of keys, so that
    more keys do not raise the limit. 0 sets no limit."""
    rate_auth_failures_per_minute: int = Field(default=6_000, ge=0, le=10_000_000)
    """Maximum number of invalid credentials per minute from one client address (IPv6: one network
    of 64 bits). Beyond it, only keys that this process has authenticated before are served. 0 sets
    no limit."""

    shutdown_timeout_s: int = Field(default=5, ge=1, le=300)
    """Seconds that open requests may take to finish after a stop was requested."""

    sms_gateway: Literal["log", "twilio"] = "log"
    """The gateway for text messages: `log`, which sends nothing, or Twilio."""
    sms_twilio_account: str | None = None
    """With Twilio: the account's SID (`AC…`)."""
    sms_twilio_token: str | None = None
    """With Twilio: its auth token. It also signs delivery receipts, so the API needs it too."""
    sms_twilio_from: str | None = None
    """With Twilio: the number that messages are sent from, or a messaging service (`MG…`)."""
    sms_twilio_url: str = "https://api.twilio.com"
    """With Twilio: the base URL of its REST API."""
    sms_public_url: str | None = None
    """The public URL of this API for delivery receipts (`https://crm.example`). Without it, no
    receipts are requested."""
    sms_timeout_s: float = Field(default=10.0, gt=0, le=60)
    """Seconds after which a request to the gateway times out."""
    sms_attempts_max: int = Field(default=5, ge=1, le=20)
    """Maximum number of attempts to send one message."""
    sms_backoff_first_s: float = Field(default=1.0, gt=0, le=60)
    """Seconds between the first attempt and the second; doubled for each further attempt."""
    sms_backoff_max_s: float = Field(default=4.0, gt=0, le=600)
    """Maximum seconds between two attempts, unless the gateway asks for more."""
    sms_expire_s: float = Field(default=86_400.0, gt=0, le=604_800)
    """Seconds after which the sender gives up a message that could not be sent."""
    sms_lead_daily_max: int = Field(default=10, ge=0, le=10_000)
    """Maximum number of messages to one lead per day (UTC)."""
    sms_workspace_daily_max: int = Field(default=2_000, ge=0, le=10_000_000)
    """Maximum number of messages of one workspace per day (UTC)."""
    sms_region: str | None = Field(default=None, pattern=r"^[A-Z]{2}$")
    """Country (ISO 3166, `GB`) of phone numbers without `+`. If it is not set, no messages are sent
    to leads whose number does not begin with `+`."""
    sms_timezone: str = "UTC"
    """Time zone (`Europe/London`) of appointment times in messages."""
    sms_threads: int = Field(default=4, ge=1, le=100)
    """Number of messages that one sender process sends concurrently."""

    realtime_subscribers_max: int = Field(default=5_000, ge=1, le=100_000)
    """Maximum number of subscribers in one process."""
    realtime_subscribers_per_key_max: int = Field(default=1_000, ge=1, le=100_000)
    """Maximum number of subscribers in one process that use the same API key."""
    realtime_subscribers_per_workspace_max: int = Field(default=2_500, ge=1, le=100_000)
    """Maximum number of subscribers in one process that belong to the same workspace."""
    realtime_queue_max: int = Field(default=1_000, ge=1, le=100_000)
    """Maximum number of messages queued for one subscriber; the stream of a slower one is ended."""
    realtime_heartbeat_s: float = Field(default=15.0, gt=0, le=600)
    """Seconds between two heartbeats of an idle stream."""
    realtime_key_check_s: float = Field(default=5.0, gt=0, le=600)
    """Seconds between two checks that the API keys of subscribers are still valid."""
    job_followers_max: int = Field(default=500, ge=1, le=100_000)
    """Maximum number of streams of job progress in one process. More get 503."""
    job_followers_per_workspace_max: int = Field(default=100, ge=1, le=100_000)
    """Maximum number of these streams that belong to the same workspace. More get 429."""
    jobs_per_workspace_max: int = Field(default=100, ge=1, le=100_000)
    """Maximum number of jobs of one workspace that have not ended. More get 429."""
    unread_timeout_s: float = Field(default=30.0, ge=1, le=600)
    """Seconds after which a client that reads nothing of what it was sent is disconnected."""

    access_log: bool = False
    """Write one JSON line for each request to standard output."""
    log_level: Literal["debug", "info", "warning", "error"] | None = None
    """The lowest level that is logged: info by default, and warning under `annals up`, whose output
    a person reads."""

    stall_after_s: float = Field(default=6.0, gt=0, le=600)
    """Seconds without progress, although there are events to process, after which health is red."""
    ready_lag_max_s: float = Field(default=30.0, gt=0, le=86_400)
    """Maximum lag in seconds of a projection while this process reports that it is ready."""
    metrics_token: str | None = None
    """Bearer token that /metrics requires. If it is not set, /metrics serves this machine only."""
    otel_endpoint: str | None = None
    """URL of an OpenTelemetry collector (OTLP over HTTP). If it is not set, tracing is off."""

    @property
    def has_database_urls(self) -> bool:
        """Whether an external PostgreSQL is configured, so that no embedded one is started."""
        return None not in (self.owner_url, self.app_url, self.projector_url)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read secrets from the folder that the variable ANNALS_SECRETS_DIR names, if it exists."""
        folder = EnvSettingsSource(settings_cls)().get("secrets_dir")
        if not folder or not Path(folder).is_dir():
            return init_settings, env_settings
        return init_settings, env_settings, SecretFiles(settings_cls, secrets_dir=folder)

    @field_validator("secrets_dir")
    @classmethod
    def _secrets_are_in_a_folder(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.is_dir():
            raise ValueError(f"there is no folder {folder}")
        return folder

    @field_validator("sms_timezone")
    @classmethod
    def _zone_is_known(cls, zone: str) -> str:
        if zone != "UTC" and zone not in available_timezones():
            raise ValueError("is not a time zone known on this machine")
        return zone

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, proxies: str) -> str:
        parse_networks(proxies)
        return proxies

    @field_validator("rate_by_role")
    @classmethod
    def _role_rates_are_known(cls, rates: str) -> str:
        parse_role_rates(rates)
        return rates

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_origins(cls, origins: str) -> str:
        parse_origins(origins)
        return origins

    @field_validator("home")
    @classmethod
    def _home_is_absolute(cls, home: Path) -> Path:
        # Child processes may have another working directory.
        return home.expanduser().absolute()

"""Every setting and every limit of a running Annals, each with its unit."""

from pathlib import Path
from typing import Literal
from zoneinfo import available_timezones

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

REPOSITORY = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """What the environment may change: ANNALS_PORT=9000 sets `port`, and so on.

    Names end in their unit. A value out of its range is refused at the start with
    pydantic.ValidationError, which the command line turns into one sentence.
    """

    model_config = SettingsConfigDict(env_prefix="ANNALS_", env_ignore_empty=True, frozen=True)

    home: Path = REPOSITORY / ".annals"
    """Folder of the data, the access token and connection.json."""
    host: str = "127.0.0.1"
    """Address the API listens on."""
    port: int = Field(default=8321, ge=1, le=65_535)
    """TCP port the API listens on."""

    owner_url: str | None = None
    """PostgreSQL URL of the role that owns the tables; migrations run as it."""
    app_url: str | None = None
    """PostgreSQL URL of the API's role, which owns nothing and is bound by row-level security."""
    projector_url: str | None = None
    """PostgreSQL URL of the projector's role."""
    sender_url: str | None = None
    """PostgreSQL URL of the sender's role. Where the other three are set and this one is not,
    `annals up` runs no sender."""
    superuser_url: str | None = None
    """URL that may create roles and databases. Only `annals migrate` reads it, to make the roles
    that the other URLs name; never give it to a process that serves."""

    body_max_bytes: int = Field(default=1_048_576, ge=1_024)
    """Longest request body, in bytes, counted before it is parsed."""
    bulk_body_max_bytes: int = Field(default=5_242_880, ge=1_024)
    """The same for POST /api/bulk, which may name 100,000 ids."""
    import_max_bytes: int = Field(default=52_428_800, ge=1_024, le=200_000_000)
    """Longest file that is imported over HTTP, in bytes; by the command line 200,000,000."""
    import_upload_timeout_s: float = Field(default=300.0, gt=0, le=3_600)
    """Seconds within which such a file has to be complete."""
    import_kept_s: int = Field(default=604_800, ge=3_600, le=31_536_000)
    """Seconds after which an import's files and failed rows go. What it recorded stays."""
    import_preview_rows_max: int = Field(default=20_000, ge=1, le=500_000)
    """Most rows of an import that a preview looks at."""
    page_size_default: int = Field(default=50, ge=1)
    """Rows of a list page when the request names no number."""
    page_size_max: int = Field(default=500, ge=1, le=10_000)
    """Most rows of a list page."""
    min_position_wait_ms: int = Field(default=5_000, ge=0, le=60_000)
    """Longest time, in milliseconds, a read waits for the position it asked for."""

    poll_interval_ms: int = Field(default=200, ge=1, le=60_000)
    """Milliseconds between two looks at the log when no hint arrives."""
    projection_batch_size: int = Field(default=2_000, ge=1, le=100_000)
    """Most events a projector folds into one transaction."""

    source: Literal["log", "kafka"] = "log"
    """Where a projector reads: the log itself, or the topic that `annals relay` publishes it to."""
    kafka_bootstrap: str = "127.0.0.1:9092"
    """Kafka's brokers, `host:port`, divided by commas."""
    kafka_topic: str = Field(default="annals.events", min_length=1, max_length=249)
    """The topic that holds the log."""
    kafka_partitions: int = Field(default=12, ge=1, le=1_000)
    """Partitions of the topic where it is made: by so many projectors it can be shared."""
    kafka_group: str = Field(default="annals-projectors", min_length=1)
    """The consumer group in which projectors share the partitions."""
    kafka_session_timeout_ms: int = Field(default=6_000, ge=1_000, le=300_000)
    """Milliseconds after which the group gives a silent projector's partitions to others."""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How Kafka is spoken to."""
    kafka_sasl_mechanism: str | None = None
    """With SASL: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."""
    kafka_sasl_username: str | None = None
    """With SASL: the user."""
    kafka_sasl_password: str | None = None
    """With SASL: the password."""
    kafka_ssl_cafile: str | None = None
    """With SSL: a file of the authorities that are trusted."""

    idempotency_window_s: int = Field(default=86_400, ge=60, le=2_592_000)
    """Seconds within which a repeated request with the same idempotency key gets the first answer
    again. Old ones go by partition, so they stay some hours longer."""

    write_threads_max: int = Field(default=12, ge=1, le=200)
    """Most writes worked on at once; each holds at most one database connection."""
    write_queue_max: int = Field(default=500, ge=1, le=10_000)
    """Most writes that wait for their turn; more are refused with 503."""
    read_connections_max: int = Field(default=8, ge=1, le=200)
    """Most database connections for reads."""
    exports_max: int = Field(default=4, ge=1, le=50)
    """Most exports streamed at once, each over a connection of its own; more are refused (503)."""
    exports_per_workspace_max: int = Field(default=2, ge=1, le=50)
    """Most exports of one workspace streamed at once; more are refused (429)."""
    export_timeout_s: float = Field(default=600.0, gt=0, le=86_400)
    """Seconds after which an export is cut off: so long its snapshot keeps PostgreSQL from clearing
    away what was changed meanwhile."""
    export_stall_timeout_s: float = Field(default=30.0, gt=0, le=3_600)
    """Seconds after which an export is cut off of which its reader takes nothing."""
    body_timeout_s: float = Field(default=20.0, gt=0, le=600)
    """Seconds within which a request body has to be complete."""
    shutdown_timeout_s: int = Field(default=5, ge=1, le=300)
    """Seconds that open requests get to finish once a stop was asked for."""

    sms_gateway: Literal["log", "twilio"] = "log"
    """Who takes text messages: the log, which sends nothing, or Twilio."""
    sms_twilio_account: str | None = None
    """With Twilio: the account's SID (`AC…`)."""
    sms_twilio_token: str | None = None
    """With Twilio: its auth token. Receipts are signed with it, so the API needs it as well."""
    sms_twilio_from: str | None = None
    """With Twilio: the number that messages come from, or a messaging service (`MG…`)."""
    sms_twilio_url: str = "https://api.twilio.com"
    """With Twilio: where its REST API is."""
    sms_public_url: str | None = None
    """Where this API can be reached from outside, for delivery receipts (`https://crm.example`).
    Without it none are asked for."""
    sms_timeout_s: float = Field(default=10.0, gt=0, le=60)
    """Seconds that an answer of the gateway is waited for."""
    sms_attempts_max: int = Field(default=5, ge=1, le=20)
    """Most attempts to hand over one message."""
    sms_backoff_first_s: float = Field(default=1.0, gt=0, le=60)
    """Seconds between the first attempt and the second; then twice that, and so on."""
    sms_backoff_max_s: float = Field(default=4.0, gt=0, le=600)
    """Most seconds between two attempts, what the gateway itself asks for excepted."""
    sms_expire_s: float = Field(default=86_400.0, gt=0, le=604_800)
    """Seconds after which a message that could not be sent is given up."""
    sms_lead_daily_max: int = Field(default=10, ge=0, le=10_000)
    """Most messages to one lead, a day in UTC."""
    sms_workspace_daily_max: int = Field(default=2_000, ge=0, le=10_000_000)
    """Most messages of one workspace, a day in UTC."""
    sms_region: str | None = Field(default=None, pattern=r"^[A-Z]{2}$")
    """Country (ISO 3166, `GB`) in which numbers without `+` are dialled. Where none is set, leads
    whose number does not begin with `+` cannot be sent to."""
    sms_timezone: str = "UTC"
    """Zone (`Europe/London`) in which messages tell the time of an appointment."""
    sms_threads: int = Field(default=4, ge=1, le=100)
    """Messages that one sender process hands over at once."""

    realtime_subscribers_max: int = Field(default=5_000, ge=1, le=100_000)
    """Most clients that follow changes through one process at once."""
    realtime_subscribers_per_key_max: int = Field(default=1_000, ge=1, le=100_000)
    """Most of them that came with one API key."""
    realtime_queue_max: int = Field(default=1_000, ge=1, le=100_000)
    """Messages that may wait for one of them; who is slower than that is cut off."""
    realtime_heartbeat_s: float = Field(default=15.0, gt=0, le=600)
    """Seconds between two heartbeats of a stream that has nothing else to tell."""
    realtime_key_check_s: float = Field(default=5.0, gt=0, le=600)
    """Seconds between two looks whether the keys of those who follow still hold."""
    unread_timeout_s: float = Field(default=30.0, ge=1, le=600)
    """Seconds after which a client that takes nothing of what it was sent is disconnected."""

    access_log: bool = False
    """Write one JSON line for each request to standard output."""
    log_level: Literal["debug", "info", "warning", "error"] | None = None
    """From which level on lines are logged: info where it is not set. Under `annals up`, where a
    person reads along, it is warning."""

    stall_after_s: float = Field(default=6.0, gt=0, le=600)
    """Seconds without progress, while there is something to do, after which health is red."""
    ready_lag_max_s: float = Field(default=30.0, gt=0, le=86_400)
    """Seconds that a projection may be behind while this process calls itself ready."""
    metrics_token: str | None = None
    """Bearer token that /metrics asks for. Where none is set, it answers this machine only."""
    otel_endpoint: str | None = None
    """URL of an OpenTelemetry collector (OTLP over HTTP). Where none is set, nothing is traced."""

    @property
    def has_database_urls(self) -> bool:
        """Whether PostgreSQL is provided from outside, so that none is started here."""
        return None not in (self.owner_url, self.app_url, self.projector_url)

    @field_validator("sms_timezone")
    @classmethod
    def _zone_is_known(cls, zone: str) -> str:
        if zone != "UTC" and zone not in available_timezones():
            raise ValueError("is no time zone that this machine knows")
        return zone

    @field_validator("home")
    @classmethod
    def _home_is_absolute(cls, home: Path) -> Path:
        # Child processes must mean the same folder wherever they stand.
        return home.expanduser().absolute()

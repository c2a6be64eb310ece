"""The database of the settings: one given by URL, or the home's embedded server."""

from types import TracebackType

from psycopg.conninfo import conninfo_to_dict

from runtime.settings import Settings
from server.disk import accept_writes
from server.postgres.embedded import (
    AlreadyRunningError,
    Cluster,
    DatabaseUrls,
    EmbeddedPostgres,
    prepare_database,
    urls_of_running,
)
from server.postgres.processes import EmbeddedPostgresError
from server.postgres.roles import prepare_roles_and_database

DATABASE_NAME = "annals"


class DatabaseSettingsError(Exception):
    """The settings name some database URLs but not all; the message is one sentence."""


def create_roles(settings: Settings) -> None:
    """Create the database and roles that the URLs name, if superuser_url is set.

    Raises psycopg.Error.
    """
    urls = [settings.owner_url, settings.app_url, settings.projector_url]
    if settings.superuser_url is None or None in urls:
        return
    if settings.sender_url is not None:
        urls.append(settings.sender_url)
    parts = [conninfo_to_dict(str(url)) for url in urls]
    passwords = {str(part["user"]): str(part["password"]) for part in parts}
    prepare_roles_and_database(settings.superuser_url, str(parts[0]["dbname"]), passwords)


class Database:
    """The database of the settings: within a `with` block, `settings` has its URLs.

    URLs that are set are used unchanged. Without them, the block starts and stops the embedded
    server of the home, or uses the one that `annals up` is running if `join_running`. Entering
    raises EmbeddedPostgresError or DatabaseSettingsError.
    """

    def __init__(self, settings: Settings, *, join_running: bool = True) -> None:
        self.settings = settings
        self._join_running = join_running
        self._server: EmbeddedPostgres | None = None
        self._is_prepared = False
        self.cluster: Cluster | None = None
        """The server that was started here."""

    def __enter__(self) -> "Database":
        urls = (self.settings.owner_url, self.settings.app_url, self.settings.projector_url)
        if any(urls) and not all(urls):
            raise DatabaseSettingsError(
                "Set all of ANNALS_OWNER_URL, ANNALS_APP_URL and ANNALS_PROJECTOR_URL, or none"
                " of them."
            )
        if not self.settings.has_database_urls:
            self._server = EmbeddedPostgres(self.settings.home)
            try:
                self._start()
            except AlreadyRunningError:
                if not self._join_running:
                    raise
                self._server = None
                self._use(urls_of_running(self.settings.home, DATABASE_NAME))
            except BaseException:
                self._server.stop()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.stop()

    @property
    def location(self) -> str:
        """Where the data is kept, for a message to the user."""
        return "the PostgreSQL you named" if self._server is None else str(self.settings.home)

    def has_crashed(self) -> bool:
        """Whether the server that was started here does not run, or its start was not completed."""
        return self._server is not None and not (self._server.is_running() and self._is_prepared)

    def restart(self) -> None:
        """Start a crashed server again; `settings` may have another port afterwards."""
        self._start()

    def _start(self) -> None:
        if self._server is not None:
            self._is_prepared = False
            self.cluster = self._server.start()
            try:
                accept_writes(self.cluster.superuser_url)
            except TimeoutError as error:
                raise EmbeddedPostgresError(f"{error}.") from None
            self._use(prepare_database(self.cluster, DATABASE_NAME))
            self._is_prepared = True

    def _use(self, urls: DatabaseUrls) -> None:
        self.settings = self.settings.model_copy(
            update={
                "owner_url": urls.owner,
                "app_url": urls.app,
                "projector_url": urls.projector,
                "sender_url": urls.sender,
                **({"disk_folder": self.cluster.data} if self.cluster is not None else {}),
            }
        )

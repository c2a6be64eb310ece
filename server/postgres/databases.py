"""The database behind the settings: one given by URL, or the home's own embedded server."""

from types import TracebackType

from psycopg.conninfo import conninfo_to_dict

from runtime.settings import Settings
from server.postgres.embedded import (
    AlreadyRunningError,
    DatabaseUrls,
    EmbeddedPostgres,
    prepare_database,
    urls_of_running,
)
from server.postgres.roles import prepare_roles_and_database

DATABASE_NAME = "annals"


class DatabaseSettingsError(Exception):
    """The settings name some databases and not others; the message is one sentence."""


def make_roles(settings: Settings) -> None:
    """Where superuser_url is set, make the database and the roles that the other URLs name.

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
    """Settings that have database URLs, for as long as the `with` block lasts.

    URLs that are set are used as they are. Without them the embedded server of the home is started
    and stopped again, or, where `join_running`, one that `annals up` runs meanwhile is used.
    Raises EmbeddedPostgresError or DatabaseSettingsError on entering.
    """

    def __init__(self, settings: Settings, *, join_running: bool = True) -> None:
        self.settings = settings
        self._join_running = join_running
        self._server: EmbeddedPostgres | None = None

    def __enter__(self) -> "Database":
        urls = (self.settings.owner_url, self.settings.app_url, self.settings.projector_url)
        if any(urls) and not all(urls):
            raise DatabaseSettingsError(
                "ANNALS_OWNER_URL, ANNALS_APP_URL and ANNALS_PROJECTOR_URL are needed together"
                " here, or none of them."
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
    def place(self) -> str:
        """Where the data stays, in words for the user."""
        return "the PostgreSQL you named" if self._server is None else str(self.settings.home)

    def has_died(self) -> bool:
        """Whether a server that was started here is gone."""
        return self._server is not None and not self._server.is_running()

    def revive(self) -> None:
        """Start a server that has died again; `settings` may name another port afterwards."""
        self._start()

    def _start(self) -> None:
        if self._server is not None:
            self._use(prepare_database(self._server.start(), DATABASE_NAME))

    def _use(self, urls: DatabaseUrls) -> None:
        self.settings = self.settings.model_copy(
            update={
                "owner_url": urls.owner,
                "app_url": urls.app,
                "projector_url": urls.projector,
                "sender_url": urls.sender,
            }
        )

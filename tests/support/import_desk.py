"""What tests of imports and of the demo share: a workspace, files to import, and ways to look."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg_pool import ConnectionPool

from commands.importing.findings import Severity
from commands.importing.options import IMPORTABLE, ImportOptions
from commands.importing.tables import open_table
from eventlog.connections import Connection
from readmodels.lists import LISTS, ListQuery, list_page
from replay.as_of import AsOfQuery, list_as_of
from runtime.settings import Settings
from server.cli.local.database import with_workspace_reader
from server.cli.local.importing import ImportResult, run_import
from tests.support.databases import Urls

PAGE_SIZE = 500


def settings_for(urls: Urls, home: Path) -> Settings:
    """Settings on the test's database."""
    return Settings(home=home, owner_url=urls.owner, app_url=urls.app, projector_url=urls.projector)


@dataclass(frozen=True)
class Desk:
    """Where files are handed in for one workspace."""

    settings: Settings
    workspace: UUID
    folder: Path

    def file(self, text: str, *, encoding: str = "utf-8") -> Path:
        """A file with this content."""
        path = self.folder / "rows.csv"
        path.write_bytes(text.encode(encoding))
        return path

    def hand_in(self, plural: str, file: str | Path, **options: Any) -> ImportResult:
        """Import a file, or text that becomes one; with `dry_run` nothing is written."""
        dry_run = options.pop("dry_run", False)
        path = self.file(file) if isinstance(file, str) else file
        given = ImportOptions(IMPORTABLE[plural], **options)
        return run_import(self.settings, self.workspace, given, open_table(path), dry_run=dry_run)

    def page(self, plural: str, **query: Any) -> dict[str, Any]:
        """A list, as the API shows it."""
        asked = ListQuery(self.workspace, page_size=PAGE_SIZE, include_stats=True, **query)
        answer = with_workspace_reader(
            self.settings,
            self.workspace,
            lambda connection: list_page(connection, LISTS[plural], asked),
        )
        page: dict[str, Any] = json.loads(answer)
        return page

    def items(self, plural: str) -> list[dict[str, Any]]:
        """The items of a list in order of creation."""
        items: list[dict[str, Any]] = self.page(plural, descending=False)["items"]
        return items

    def pipeline(self, pool: ConnectionPool[Connection], at: datetime) -> dict[str, Any]:
        """Opportunities by stage as of a time."""
        query = AsOfQuery(self.workspace, "opportunities", at, include_stats=True)
        stages: dict[str, Any] = json.loads(list_as_of(pool, query))["aggregations"]["byStage"]
        return stages


def findings(result: ImportResult, severity: Severity) -> Sequence[tuple[int, str, str, str]]:
    """Row, column, value and code of each finding."""
    return [
        (each.row, each.column, each.value, each.code)
        for each in result.findings
        if each.severity is severity
    ]


def errors(result: ImportResult) -> Sequence[tuple[int, str, str, str]]:
    """What kept rows out."""
    return findings(result, Severity.ERROR)


def warnings(result: ImportResult) -> Sequence[tuple[int, str, str, str]]:
    """What there was to say of rows that went in."""
    return findings(result, Severity.WARNING)

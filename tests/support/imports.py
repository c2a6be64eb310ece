"""Helpers for tests of imports: import files into a workspace, and read its lists."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg_pool import ConnectionPool

from commands.importing.files import open_table
from commands.importing.issues import ImportIssue
from commands.importing.mapping import IMPORTABLE, ImportOptions
from eventlog.connections import Connection
from readmodels.lists import LISTS, ListQuery, list_page
from replay.as_of import AsOfQuery, list_as_of
from runtime.settings import Settings
from server.cli.local.database import with_workspace_reader
from server.cli.local.importing import ImportResult, run_import
from tests.support.databases import Urls

PAGE_SIZE = 500


def settings_for(urls: Urls, home: Path) -> Settings:
    """Return settings for the test's database."""
    return Settings(home=home, owner_url=urls.owner, app_url=urls.app, projector_url=urls.projector)


@dataclass(frozen=True)
class Importer:
    """Imports files into one workspace, as the command line does."""

    settings: Settings
    workspace: UUID
    folder: Path

    def file(self, text: str, *, encoding: str = "utf-8") -> Path:
        """Write a file with this content."""
        path = self.folder / "rows.csv"
        path.write_bytes(text.encode(encoding))
        return path

    def run(self, plural: str, file: str | Path, **options: Any) -> ImportResult:
        """Import a file, or text as a file; with `dry_run` nothing is written."""
        dry_run = options.pop("dry_run", False)
        path = self.file(file) if isinstance(file, str) else file
        given = ImportOptions(IMPORTABLE[plural], **options)
        return run_import(self.settings, self.workspace, given, open_table(path), dry_run=dry_run)

    def page(self, plural: str, **query: Any) -> dict[str, Any]:
        """Return a list as the API does."""
        asked = ListQuery(self.workspace, page_size=PAGE_SIZE, include_stats=True, **query)
        answer = with_workspace_reader(
            self.settings,
            self.workspace,
            lambda connection: list_page(connection, LISTS[plural], asked),
        )
        page: dict[str, Any] = json.loads(answer.content)
        return page

    def items(self, plural: str) -> list[dict[str, Any]]:
        """Return the items of a list, in order of creation."""
        items: list[dict[str, Any]] = self.page(plural, descending=False)["items"]
        return items

    def pipeline(self, pool: ConnectionPool[Connection], at: datetime) -> dict[str, Any]:
        """Return the opportunities by stage as of a time."""
        query = AsOfQuery(self.workspace, "opportunities", at, include_stats=True)
        stages: dict[str, Any] = json.loads(list_as_of(pool, query))["aggregations"]["byStage"]
        return stages


def errors(result: ImportResult) -> Sequence[tuple[int, str, str, str]]:
    """Return row, column, value and code of each error."""
    return [_summary(each) for each in result.issues if each.is_error]


def warnings(result: ImportResult) -> Sequence[tuple[int, str, str, str]]:
    """Return row, column, value and code of each warning."""
    return [_summary(each) for each in result.issues if not each.is_error]


def _summary(issue: ImportIssue) -> tuple[int, str, str, str]:
    return issue.row, issue.column, issue.value, issue.code

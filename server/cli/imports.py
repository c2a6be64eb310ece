"""import: the rows of a CSV file become accounts, members, opportunities, …"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from commands.importing.cells import DateOrder
from commands.importing.issues import ImportIssue, ImportRefused, Severity
from runtime.settings import Settings
from server.cli import CommandError, print_line, print_warning
from server.cli.progress import progress_bar
from server.postgres.databases import Database

if TYPE_CHECKING:  # an import imports the rest when it runs, so that other commands start fast
    from commands.importing.cells import Lookup
    from commands.importing.files import SourceTable
    from commands.importing.mapping import ImportOptions
    from server.cli.local.importing import ImportResult


class ModeName(StrEnum):
    """What happens to a row that exists already; the same as commands.importing.mapping.Mode."""

    SKIP = "skip"
    UPDATE = "update"
    CREATE = "create"


EXIT_ROWS_FAILED = 1
SHOWN_MAX = 10
"""Maximum number of errors that are shown; the report has all of them."""

KindArgument = Annotated[
    str, typer.Argument(help="What the rows are: accounts, members, opportunities, …")
]
File = Annotated[Path, typer.Argument(help="CSV; its first row names the columns.")]
Maps = Annotated[
    list[str],
    typer.Option("--map", metavar="COLUMN=FIELD", help="accountId and assignedTo go by name."),
]
DedupeByOption = Annotated[
    list[str],
    typer.Option("--dedupe-by", metavar="FIELD", help="Rows with the same value are the same."),
]
Defaults = Annotated[
    list[str], typer.Option("--default", metavar="FIELD=VALUE", help="Where a cell is empty.")
]
Corrections = Annotated[
    list[str], typer.Option("--correct", metavar="COLUMN:WRONG=RIGHT", help="Misspelt values.")
]
KnownOption = Annotated[
    list[str],
    typer.Option("--known", metavar="COLUMN=FILE.csv:COLUMN", help="The valid values."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("import")(import_file)


def import_file(
    kind: KindArgument,
    file: File,
    maps: Maps = [],  # noqa: B006 - typer copies it
    dedupe_by: DedupeByOption = [],  # noqa: B006
    defaults: Defaults = [],  # noqa: B006
    corrections: Corrections = [],  # noqa: B006
    known: KnownOption = [],  # noqa: B006
    dates: Annotated[DateOrder | None, typer.Option(help="How dates are written.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Import the first rows only.")] = None,
    encoding: Annotated[str | None, typer.Option(help="UTF-8, else cp1252.")] = None,
    mode: Annotated[ModeName, typer.Option(help="For rows that exist already by --dedupe-by.")] = (
        ModeName.SKIP
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write all issues to a CSV or JSON file.")
    ] = None,
    workspace: Annotated[UUID | None, typer.Option(help="Instead of that of the home.")] = None,
) -> None:
    """Import a CSV file into the workspace of this home; a second time adds only new rows.

    Columns that are not mapped become the field of the same name, else a custom field. Bad rows are
    reported and the others imported; the exit code is 1 if there were bad rows.
    """
    from commands.importing.files import open_table
    from commands.importing.mapping import ImportOptions, Mode, kind_of

    try:
        options = ImportOptions(
            kind=kind_of(kind),
            mapping=_parse_pairs("--map", maps),
            dedupe_by=tuple(dedupe_by),
            mode=Mode(mode),
            defaults=_parse_pairs("--default", defaults),
            corrections=_parse_corrections(corrections),
            known={
                column: _load_known_values(source)
                for column, source in _parse_pairs("--known", known).items()
            },
            dates=dates,
            rows_max=limit,
        )
        table = open_table(file, encoding=encoding)
        result = _run(options, table, workspace, dry_run=dry_run)
    except ImportRefused as refused:
        raise CommandError(str(refused)) from None
    _show_result(result, options, table, dry_run=dry_run)
    if report is not None:
        _write_report(report, result.issues)
    if result.failed:
        raise typer.Exit(EXIT_ROWS_FAILED)


def _run(
    options: ImportOptions, table: SourceTable, workspace: UUID | None, *, dry_run: bool
) -> ImportResult:
    from eventlog.scope import SYSTEM, Actor
    from server.cli.local.database import catch_up, load_home_key
    from server.cli.local.importing import run_import

    unit = "rows checked" if dry_run else "rows"
    with Database(Settings()) as database, progress_bar(unit) as progress:
        settings = database.settings
        actor = SYSTEM
        if workspace is None:
            catch_up(settings)
            key_id, key = load_home_key(settings)
            workspace, actor = key.workspace_id, Actor("api_key", str(key_id), key.name)
        return run_import(
            settings,
            workspace,
            options,
            table,
            dry_run=dry_run,
            actor=actor,
            progress=progress,
        )


def _show_result(
    result: ImportResult, options: ImportOptions, table: SourceTable, *, dry_run: bool
) -> None:
    if table.encoding != "utf-8":
        print_line(f"The file was read as {table.encoding}.")
    would = "would be " if dry_run else ""
    updated = f" {result.updated:,} {would}updated," if result.updated else ""
    print_line(
        f"{result.rows:,} rows of {table.name}: {result.created:,} {would}created,{updated}"
        f" {result.skipped:,} {would}skipped (there already), {result.failed:,} failed."
    )
    _show_counts(result)
    errors = [each for each in result.issues if each.is_error]
    for each in errors[:SHOWN_MAX]:
        print_warning(f"  {_describe_issue(each)}")
    if len(errors) > SHOWN_MAX:
        print_warning(
            f"  … and {len(errors) - SHOWN_MAX:,} more: --report FILE.csv has all of them."
        )
    if not options.dedupe_by:
        print_warning("Without --dedupe-by a second import creates every row again.")


def _show_counts(result: ImportResult) -> None:
    counts = [("error", *each) for each in result.errors.most_common()]
    counts += [("warning", *each) for each in result.warnings.most_common()]
    if not counts:
        return
    width = max(len(code) for _, code, _ in counts)
    for severity, code, count in counts:
        shown = ""
        if severity == Severity.WARNING:
            example = next((each for each in result.issues if each.code == code), None)
            shown = f"  as in {_describe_issue(example)}" if example else ""
        print_line(f"  {severity:<7}  {code:<{width}}  {count:>7,}{shown}")


def _describe_issue(issue: ImportIssue) -> str:
    cell = " ".join(filter(None, (issue.column, issue.value and repr(issue.value))))
    return f"row {issue.row}: {cell and cell + ': '}{issue.message}"


def _write_report(path: Path, issues: list[ImportIssue]) -> None:
    from server.cli.local.importing import write_report

    try:
        write_report(path, issues)
    except OSError as failure:
        raise CommandError(f"{path} cannot be written: {failure.strerror}.") from None
    print_line(f"{len(issues):,} issues are in {path}.")


def _parse_pairs(option: str, given: list[str]) -> Mapping[str, str]:
    """Parse NAME=VALUE pairs. `--map` splits at the last equals sign: columns may contain some."""
    pairs = {}
    for text in given:
        name, equals, value = text.rpartition("=") if option == "--map" else text.partition("=")
        if not equals or not name:
            raise ImportRefused(f"{option} {text!r} is not NAME=VALUE.")
        if name in pairs:
            raise ImportRefused(f"{option} names {name!r} twice.")
        pairs[name] = value
    return pairs


def _parse_corrections(given: list[str]) -> Mapping[str, Mapping[str, str]]:
    corrections: dict[str, dict[str, str]] = defaultdict(dict)
    for text in given:
        column, colon, rest = text.partition(":")
        wrong, equals, right = rest.partition("=")
        if not (colon and equals and wrong):
            raise ImportRefused(f"--correct {text!r} is not COLUMN:WRONG=RIGHT.")
        corrections[column][wrong] = right
    return corrections


def _load_known_values(source: str) -> Lookup[str]:
    from server.cli.local.importing import known_values

    path, colon, column = source.rpartition(":")
    if not colon:
        raise ImportRefused(f"--known names FILE.csv:COLUMN, not {source!r}.")
    return known_values(Path(path), column)

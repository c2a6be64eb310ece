"""`python -m server.cli`: collects the commands and reports every error as one sentence."""

import os
import sys
from typing import Annotated

import typer
from pydantic import ValidationError

from runtime import VERSION
from server.cli import (
    CommandError,
    analysis,
    development,
    imports,
    kafka,
    keys,
    maintenance,
    print_line,
    print_warning,
    projections,
    running,
)
from server.postgres.databases import DatabaseSettingsError
from server.postgres.processes import EmbeddedPostgresError
from server.processes.supervisor import SupervisorError

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130
EXPECTED_ERRORS = (CommandError, DatabaseSettingsError, EmbeddedPostgresError, SupervisorError)

app = typer.Typer(
    name="annals",
    help="A CRM backend whose database is its history.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
GROUPS = (
    *(running, projections, analysis, kafka, imports, keys),
    *(maintenance, development),
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print_line(f"annals {VERSION}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """A CRM backend whose database is its history."""


for module in GROUPS:
    module.register(app)


def main() -> int:
    """Run the command in sys.argv. Return the exit code, or exit with it.

    Errors are one sentence on standard error. ANNALS_DEBUG=1 shows the traceback instead.
    """
    if os.environ.get("ANNALS_DEBUG") == "1":
        app(prog_name="annals")
    try:
        app(prog_name="annals")
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except EXPECTED_ERRORS as error:
        print_warning(f"annals: {error}")
    except ValidationError as error:
        print_warning(f"annals: {_describe_invalid_setting(error)}")
    except Exception as error:  # noqa: BLE001 - the outermost handler
        first_line = (str(error).splitlines() or [""])[0]
        print_warning(f"annals: {type(error).__name__}: {first_line} (ANNALS_DEBUG=1 shows where).")
    return EXIT_FAILURE


def _describe_invalid_setting(error: ValidationError) -> str:
    first = error.errors()[0]
    if not first["loc"]:
        return f"{first['msg'].removeprefix('Value error, ')}."
    return f"ANNALS_{str(first['loc'][0]).upper()} is not usable: {first['msg'].lower()}."


if __name__ == "__main__":
    sys.exit(main())

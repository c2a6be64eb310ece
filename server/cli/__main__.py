"""`python -m server.cli`: its commands come together here, and every error becomes a sentence."""

import os
import sys

import typer
from pydantic import ValidationError

from server.cli import (
    CommandError,
    analysis,
    development,
    imports,
    kafka,
    keys,
    maintenance,
    projections,
    running,
    warn,
)
from server.postgres.databases import DatabaseSettingsError
from server.postgres.processes import EmbeddedPostgresError
from server.processes.supervisor import SupervisorError

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130
EXPECTED = (CommandError, DatabaseSettingsError, EmbeddedPostgresError, SupervisorError)

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
for module in GROUPS:
    module.register(app)


def main() -> int:
    """Run the command in sys.argv; returns the exit code, or exits with it.

    Errors are one sentence on standard error. ANNALS_DEBUG=1 shows the traceback instead.
    """
    if os.environ.get("ANNALS_DEBUG") == "1":
        app(prog_name="annals")
    try:
        app(prog_name="annals")
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except EXPECTED as error:
        warn(f"annals: {error}")
    except ValidationError as error:
        warn(f"annals: {_about_setting(error)}")
    except Exception as error:  # noqa: BLE001 - the outermost edge: nobody is above to handle it
        first_line = (str(error).splitlines() or [""])[0]
        warn(f"annals: {type(error).__name__}: {first_line} (ANNALS_DEBUG=1 shows where).")
    return EXIT_FAILURE


def _about_setting(error: ValidationError) -> str:
    first = error.errors()[0]
    if not first["loc"]:
        return f"{first['msg'].removeprefix('Value error, ')}."
    return f"ANNALS_{str(first['loc'][0]).upper()} is not usable: {first['msg'].lower()}."


if __name__ == "__main__":
    sys.exit(main())

"""Options that several commands take, and settings that several commands are registered with."""

from typing import Annotated
from uuid import UUID

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON array, for programs.")]
PlanOption = Annotated[
    bool, typer.Option("--plan", help="Show what would be done, and change nothing.")
]
WorkspaceOption = Annotated[
    UUID | None, typer.Option(help="A workspace other than the one of the home.")
]

PASS_ON_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context settings of a command that passes its remaining arguments to another program."""

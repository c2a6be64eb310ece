"""Why a rebuild, a rollback, a retry or a check of rows cannot continue."""

from __future__ import annotations

REPLACE_HINT = "annals rebuild --replace takes rebuilt rows in the place of the live ones."


class RebuildRefused(Exception):
    """The rebuild cannot continue; the live tables are unchanged. The message says why.

    `summary` is the message without anything from a row.
    """

    def __init__(self, message: str, *, summary: str | None = None) -> None:
        super().__init__(message)
        self.summary = summary or message

"""The definition of an error code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorCode:
    """One way in which a request can fail.

    `title` is for users, `explanation` for support.
    """

    code: str
    status: int
    title: str
    explanation: str
    known_as: str | None = None
    """The value of `code` in problem documents, if it differs; `errorCode` then has this code."""

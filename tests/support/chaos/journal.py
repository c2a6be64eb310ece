"""Commands of each client and their answers, in files that survive a kill -9 of the client."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

Command = Literal[
    "create",
    "revise",
    "status",
    "step",
    "delete",
    "restore",
    "read",
    "convert",
    "sms",
    "merge",
    "undo",
    "bulk",
    "import",
    "intrude",
]
Ending = Literal["acknowledged", "refused", "unknown", "unexpected"]
"""Unknown: it may have happened. Unexpected: an answer that must never be given."""

SUFFIX = ".journal"


@dataclass(frozen=True)
class SentCommand:
    """One command as its client sent it."""

    op: str
    """A unique name; the events of the command carry it as user agent."""
    command: Command
    kind: str
    workspace: str
    stream: str | None = None
    """None if the server chooses the id, or if the command has many entities."""
    values: dict[str, Any] = field(default_factory=dict)
    """Fields that the entity must have afterwards, by wire name; `customFields.<key>` as well."""
    expected_version: int | None = None
    min_position: int = 0
    """The position that the answer to a read has to contain."""
    key: str = ""
    """The idempotency key, which the retries of a request share; empty if it was sent without."""
    is_reuse: bool = False
    """Whether the key was used before for a request with another body."""
    others: list[str] = field(default_factory=list)
    """The account that a merge deletes, or the entities of a bulk change."""
    rows: list[str] = field(default_factory=list)
    """The companies in the rows of an import."""
    change: str = ""
    """The action that a step records; what a bulk change does: set, delete or restore."""
    undoes: str = ""
    """The name of the command that an undo takes back."""
    is_atomic: bool = False
    """Whether a bulk change is made to all of its entities or to none."""

    @property
    def client(self) -> str:
        """The name of the client that sent the command."""
        return self.op.rpartition("-")[0]

    @property
    def request(self) -> str:
        """The name that a request shares with its retries."""
        return f"{self.workspace}/{self.key}" if self.key else self.op


@dataclass(frozen=True)
class Answer:
    """The answer to a command."""

    op: str
    ending: Ending
    stream: str | None = None
    version: int | None = None
    position: int | None = None
    detail: str = ""
    is_replayed: bool = False
    """Whether it was marked as the stored answer to an earlier request with the key."""
    command_id: str = ""
    job: str | None = None
    """The job that carries out the command."""
    made: dict[str, str] = field(default_factory=dict)
    """The entities that a conversion created, by kind."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """Versions of the entities of a bulk change; 0 for those that were not changed."""


@dataclass(frozen=True)
class Exchange:
    """A command and its answer, which is `unknown` if none arrived."""

    sent: SentCommand
    answer: Answer

    @property
    def op(self) -> str:
        """The name of the command."""
        return self.sent.op


class Journal:
    """The file of one client. Each line is written by one system call."""

    def __init__(self, folder: Path, client: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = os.open(folder / f"{client}{SUFFIX}", flags, 0o600)

    def record_sent(self, sent: SentCommand) -> None:
        """Record a command that is about to be sent."""
        self._write({"sent": asdict(sent)})

    def record_answer(self, answer: Answer) -> None:
        """Record an answer."""
        self._write({"answer": asdict(answer)})

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, line: object) -> None:
        os.write(self._file, orjson.dumps(line) + b"\n")


def read_journals(folder: Path) -> list[Exchange]:
    """Return the exchanges of all clients; those of one client in the order of sending."""
    return [
        exchange
        for path in sorted(folder.glob(f"*{SUFFIX}"))
        for exchange in exchanges_of(path.read_bytes().splitlines(keepends=True))
    ]


def exchanges_of(lines: Iterable[bytes]) -> Iterator[Exchange]:
    """Yield the exchanges of one journal, whose client sends commands one after the other."""
    pending: SentCommand | None = None
    for line in lines:
        if not line.endswith(b"\n"):
            break
        entry = orjson.loads(line)
        if "sent" in entry:
            if pending is not None:
                yield _unanswered(pending)
            pending = SentCommand(**entry["sent"])
        elif pending is not None:
            yield Exchange(pending, Answer(**entry["answer"]))
            pending = None
    if pending is not None:
        yield _unanswered(pending)


def _unanswered(sent: SentCommand) -> Exchange:
    return Exchange(sent, Answer(sent.op, "unknown", detail="its client died"))

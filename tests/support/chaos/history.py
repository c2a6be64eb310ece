"""What each client asked and what it was told, in files that survive the client's own death."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import orjson

Command = Literal["create", "revise", "status", "delete", "restore", "read"]
Ending = Literal["acknowledged", "refused", "unknown", "unexpected"]
"""Unknown: it may have happened. Unexpected: an answer that must never be given."""

SUFFIX = ".journal"


@dataclass(frozen=True)
class Asked:
    """One command as its client sent it. Each has a name of its own, which its events carry."""

    op: str
    command: Command
    kind: str
    stream: str | None = None
    """None where the server chooses it."""
    value: str | None = None
    """What it wants to be there: a text of its own, or a status."""
    expected_version: int | None = None
    min_position: int = 0
    """Of a read: what it has to contain."""

    @property
    def client(self) -> str:
        """Who asked."""
        return self.op.rpartition("-")[0]


@dataclass(frozen=True)
class Answer:
    """What the client was told."""

    op: str
    ending: Ending
    stream: str | None = None
    version: int | None = None
    position: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class Deed:
    """A command and what came of it; nobody knows where nothing was answered."""

    asked: Asked
    answer: Answer

    @property
    def op(self) -> str:
        """Its name."""
        return self.asked.op


class Journal:
    """The file of one client. A line is written whole or not at all."""

    def __init__(self, folder: Path, client: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = os.open(folder / f"{client}{SUFFIX}", flags, 0o600)

    def asks(self, asked: Asked) -> None:
        """Before it is sent."""
        self._write({"asked": asdict(asked)})

    def hears(self, answer: Answer) -> None:
        """As soon as it is answered."""
        self._write({"answer": asdict(answer)})

    def close(self) -> None:
        """No more will be written."""
        os.close(self._file)

    def _write(self, line: object) -> None:
        os.write(self._file, orjson.dumps(line) + b"\n")


def read_journals(folder: Path) -> list[Deed]:
    """All deeds of all clients; those of one client in the order in which they were done."""
    return [
        deed
        for path in sorted(folder.glob(f"*{SUFFIX}"))
        for deed in deeds_of(path.read_bytes().splitlines(keepends=True))
    ]


def deeds_of(lines: Iterable[bytes]) -> Iterator[Deed]:
    """The deeds of one journal; its client asks the next thing only when it has done with one."""
    pending: Asked | None = None
    for line in lines:
        if not line.endswith(b"\n"):
            break
        entry = orjson.loads(line)
        if "asked" in entry:
            if pending is not None:
                yield _unanswered(pending)
            pending = Asked(**entry["asked"])
        elif pending is not None:
            yield Deed(pending, Answer(**entry["answer"]))
            pending = None
    if pending is not None:
        yield _unanswered(pending)


def _unanswered(asked: Asked) -> Deed:
    return Deed(asked, Answer(asked.op, "unknown", detail="its client died"))

"""PostgreSQL's client programs (pg_dump, pg_restore, psql), from the embedded installation."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from server.postgres.account import server_folder
from server.postgres.binaries import BinariesError, extract_binaries
from server.postgres.embedded import program_environment

CONNECTION_VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
}


class ClientError(Exception):
    """A client program failed; the message is one sentence with the program's reason."""


@dataclass(frozen=True)
class Clients:
    """The client programs of one home."""

    installation: Path
    folder: Path

    @classmethod
    def of_home(cls, home: Path) -> Clients:
        """Extract the programs into the home's server folder. Raises ClientError or OSError."""
        folder = server_folder(home)
        try:
            return cls(extract_binaries(folder), folder)
        except BinariesError as error:
            raise ClientError(str(error)) from error

    def run(self, url: str, program: str, *arguments: object, **popen: Any) -> None:
        """Run a program on the database of the URL. Raises ClientError.

        The password is passed in the environment, because any user can read command lines.
        """
        result = subprocess.run(
            [self.path(program), *map(str, arguments)],
            env=self.environment(url),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            check=False,
            **popen,
        )
        if result.returncode != 0:
            raise ClientError(_reason(program, result.stderr.decode(errors="replace")))

    def path(self, program: str) -> str:
        """Return the path of the program."""
        return str(self.installation / "bin" / program)

    def environment(self, url: str) -> dict[str, str]:
        """Return the environment with which a program connects to the database of the URL."""
        parts = conninfo_to_dict(url)
        connection = {
            variable: str(parts[name])
            for name, variable in CONNECTION_VARIABLES.items()
            if parts.get(name) is not None
        }
        others = {name: value for name, value in os.environ.items() if name in {"TERM", "PAGER"}}
        return program_environment(self.installation, self.folder) | connection | others


def _reason(program: str, output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line.lower()]
    return f"{(errors or lines or [f'{program} failed without a message'])[0].rstrip('.')}."

"""PostgreSQL's own client programs (pg_dump, pg_restore, psql), of the version that we bring."""

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
    """A client program failed; the message is one sentence with what it said of it."""


@dataclass(frozen=True)
class Clients:
    """The programs, as one home has them extracted."""

    installation: Path
    folder: Path

    @classmethod
    def of_home(cls, home: Path) -> Clients:
        """Extract them where the home's server has them. Raises ClientError or OSError."""
        folder = server_folder(home)
        try:
            return cls(extract_binaries(folder), folder)
        except BinariesError as error:
            raise ClientError(str(error)) from error

    def run(self, url: str, program: str, *arguments: object, **popen: Any) -> None:
        """Run a program on the database that the URL names. Raises ClientError.

        The password goes by the environment: everybody on the machine can read command lines.
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
        """Where the program lies."""
        return str(self.installation / "bin" / program)

    def environment(self, url: str) -> dict[str, str]:
        """The environment in which a program reaches the database that the URL names."""
        parts = conninfo_to_dict(url)
        connection = {
            variable: str(parts[name])
            for name, variable in CONNECTION_VARIABLES.items()
            if parts.get(name) is not None
        }
        others = {name: value for name, value in os.environ.items() if name in {"TERM", "PAGER"}}
        return program_environment(self.installation, self.folder) | connection | others


def _reason(program: str, said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "error:" in line.lower()]
    return f"{(telling or lines or [f'{program} failed and said nothing'])[0].rstrip('.')}."

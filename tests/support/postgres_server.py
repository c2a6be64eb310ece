"""Real PostgreSQL servers for tests, each in a folder of its own that disappears with it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.postgres.embedded import Cluster, EmbeddedPostgres

REACHABLE_MODE = 0o755


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """A temporary folder that the server's account can enter, which pytest's tmp_path is not."""
    folder = Path(tempfile.mkdtemp(prefix="annals-test-"))
    try:
        folder.chmod(REACHABLE_MODE)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def session_cluster(tmp: Path | None = None) -> Iterator[Cluster]:
    """A running server for as long as the block lasts; takes about a second to start.

    tmp: a folder to use instead of a temporary one. As root it has to be reachable by others.
    """
    if tmp is not None and os.geteuid() != 0:
        with EmbeddedPostgres(tmp) as cluster:
            yield cluster
        return
    with reachable_folder() as folder, EmbeddedPostgres(folder / "home") as cluster:
        yield cluster

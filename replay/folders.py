"""Folders that appear whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER_MODE = 0o777
"""Before the process' umask, as for any folder."""


class FolderInUse(Exception):
    """The folder holds something already; the message says so."""


@contextmanager
def appearing(folder: Path, *, mode: int = FOLDER_MODE) -> Iterator[Path]:
    """A folder to write into, which takes its name when the block ends well, and goes otherwise.

    Raises `FolderInUse`, `OSError`.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderInUse(f"{folder} is not empty: name another folder.")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=mode, parents=True)
    try:
        yield unfinished
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)

"""Folders that appear complete or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER_MODE = 0o777
"""The default mode; the process' umask applies."""


class FolderInUse(Exception):
    """The folder is not empty. The message is one sentence."""


@contextmanager
def atomic_folder(folder: Path, *, mode: int = FOLDER_MODE) -> Iterator[Path]:
    """Yield a folder to write into. It gets its name if the block succeeds, and is removed if not.

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

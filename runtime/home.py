"""The home folder: its lock, and the private files in it."""

import errno
import fcntl
import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runtime.settings import Settings

PRIVATE_FILE_MODE = 0o600
PRIVATE_FOLDER_MODE = 0o700
PASSABLE_FOLDER_MODE = 0o711
"""For root: the account that runs the database server has to reach its data folder inside."""


def make_home(home: Path) -> None:
    """Create the home folder with the most restrictive usable mode. Raises OSError."""
    mode = PASSABLE_FOLDER_MODE if os.geteuid() == 0 else PRIVATE_FOLDER_MODE
    home.mkdir(mode=mode, parents=True, exist_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a file atomically that only its owner may read.

    Readers see the old or the new content, and the file is never readable by others. Raises OSError
    if the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE_MODE)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), PRIVATE_FILE_MODE)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one if the file is missing or holds none.

    Raises OSError if the file exists but cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


class AlreadyHeldError(Exception):
    """Another process holds the lock; the message has its process id and URL, if known."""

    def __init__(self, pid: int | None, url: str | None) -> None:
        self.pid = pid
        self.url = url
        who = f"process {pid}" if pid else "another process"
        where = f" at {url}" if url else ""
        super().__init__(f"already running as {who}{where}")


class HomeLock:
    """A file lock on the home folder that names its holder. The kernel releases it on exit.

    Of two processes started with one home, the second fails with process id and URL of the first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self, url: str | None = None) -> None:
        """Acquire the lock without waiting. Raises AlreadyHeldError, or OSError for the folder."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            holder = read_json(self._path)
            raise AlreadyHeldError(holder.get("pid"), holder.get("url")) from None
        self._descriptor = descriptor
        self.announce(url)

    def announce(self, url: str | None) -> None:
        """Store the URL of this process for processes that fail to acquire the lock."""
        if self._descriptor is None:
            raise RuntimeError("announce() needs the lock")
        content = json.dumps({"pid": os.getpid(), "url": url}).encode()
        # Written in place rather than by rename: the lock belongs to this inode.
        os.ftruncate(self._descriptor, 0)
        try:
            os.pwrite(self._descriptor, content, 0)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # the lock holds without its text
                raise

    def release(self) -> None:
        """Release the lock. The file stays: removing it would race with the next holder."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def token_file(settings: Settings) -> Path:
    """Return the file of the access token. A home has one for each database it is used with."""
    if settings.owner_url is None:
        return settings.home / "token"
    digest = hashlib.sha256(settings.owner_url.encode()).hexdigest()[:12]
    return settings.home / f"token-{digest}"


def demo_file(settings: Settings) -> Path:
    """Return the file that describes the demo data in the database."""
    token = token_file(settings)
    return token.with_name(token.name.replace("token", "demo") + ".json")

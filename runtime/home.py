"""The home folder: who holds it, and the private files in it."""

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
# For root's home: the account that its database server is given to passes through it.
PASSABLE_FOLDER_MODE = 0o711


def make_home(home: Path) -> None:
    """Create the home folder, as private as it can be. Raises OSError."""
    mode = PASSABLE_FOLDER_MODE if os.geteuid() == 0 else PRIVATE_FOLDER_MODE
    home.mkdir(mode=mode, parents=True, exist_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, all of it or nothing.

    Readers see the old content or the new one, never a part; the mode is right from the first
    byte on. Raises OSError where the folder cannot be written.
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
    """The JSON object in a file; an empty one where the file is missing or is no object.

    Raises OSError where the file is there but may not be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


class AlreadyHeldError(Exception):
    """Another process holds the lock; the message says which, and where it answers."""

    def __init__(self, pid: int | None, url: str | None) -> None:
        self.pid = pid
        self.url = url
        who = f"process {pid}" if pid else "another process"
        where = f" at {url}" if url else ""
        super().__init__(f"already running as {who}{where}")


class HomeLock:
    """A lock that the kernel frees when its holder dies, and that says who holds it.

    Two starts of one home cannot both get it; the second learns pid and address of the first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self, url: str | None = None) -> None:
        """Take the lock or raise AlreadyHeldError at once. Raises OSError on an unusable folder."""
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
        """Tell those who come second where the holder answers."""
        if self._descriptor is None:
            raise RuntimeError("announce() needs the lock")
        content = json.dumps({"pid": os.getpid(), "url": url}).encode()
        # In place and not by rename: the lock belongs to this inode.
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, content, 0)

    def release(self) -> None:
        """Give the lock back; the file stays, for removing it would race with the next holder."""
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
    """One file for each database, as the same home may be started on another one."""
    if settings.owner_url is None:
        return settings.home / "token"
    digest = hashlib.sha256(settings.owner_url.encode()).hexdigest()[:12]
    return settings.home / f"token-{digest}"


def demo_file(settings: Settings) -> Path:
    """What generated data the database of the token has."""
    kept = token_file(settings)
    return kept.with_name(kept.name.replace("token", "demo") + ".json")

"""The system account that PostgreSQL runs as, and a folder that this account can enter.

PostgreSQL refuses to run as root. When root starts Annals, the server runs as an unprivileged
account, which cannot enter folders below /root.
"""

import hashlib
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from runtime.home import PASSABLE_FOLDER_MODE, PRIVATE_FOLDER_MODE, make_home

UNPRIVILEGED_ACCOUNTS = ("annals", "postgres", "nobody")
OUTSIDE_ROOT = Path("/var/lib/annals")
FOLDER_RECORD = "postgres-folder.txt"


class AccountError(Exception):
    """The server has no usable account or folder; the message is one sentence."""


@dataclass(frozen=True)
class SystemAccount:
    """The user of a server process. `must_switch`: the process has to change to this user."""

    uid: int
    gid: int
    must_switch: bool

    def popen_arguments(self) -> dict[str, object]:
        """Return the arguments with which subprocess starts a process as this user."""
        if not self.must_switch:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def take_ownership(self, path: Path) -> None:
        """Make the account the owner of one file or folder."""
        if self.must_switch:
            os.chown(path, self.uid, self.gid)


def server_account(data: Path) -> SystemAccount:
    """Return the caller's account; for root, the owner of existing data or an unprivileged account.

    Raises AccountError if root finds no such account.
    """
    if os.geteuid() != 0:
        caller = pwd.getpwuid(os.geteuid())
        return SystemAccount(caller.pw_uid, caller.pw_gid, must_switch=False)
    if data.is_dir() and (owner_uid := data.stat().st_uid) != 0:
        return _account_of(pwd.getpwuid(owner_uid))
    for name in UNPRIVILEGED_ACCOUNTS:
        try:
            return _account_of(pwd.getpwnam(name))
        except KeyError:
            continue
    raise AccountError(
        "PostgreSQL refuses to run as root, and this system has no account named"
        f" {', '.join(UNPRIVILEGED_ACCOUNTS)}: create one (useradd --system annals)."
    )


def server_folder(home: Path) -> Path:
    """Return the folder of data, programs and server logs, creating it and the home if missing.

    It is home/postgres. If the server's account cannot enter the home, it is
    /var/lib/annals/<digest of home>, and a file in the home records this path. Raises OSError if
    the home cannot be written.
    """
    make_home(home)
    record = home / FOLDER_RECORD
    if record.exists():
        folder = Path(record.read_text(encoding="utf-8").strip())
        account = server_account(folder / "data")
    else:
        folder = home / "postgres"
        account = server_account(folder / "data")
        if not _can_enter(account, home):
            name = hashlib.sha256(str(home).encode()).hexdigest()[:16]
            folder = OUTSIDE_ROOT / name
            record.write_text(f"{folder}\n", encoding="utf-8")
    folder.parent.mkdir(mode=PASSABLE_FOLDER_MODE, parents=True, exist_ok=True)
    folder.mkdir(mode=PRIVATE_FOLDER_MODE, exist_ok=True)
    account.take_ownership(folder)
    return folder


def _account_of(entry: pwd.struct_passwd) -> SystemAccount:
    return SystemAccount(entry.pw_uid, entry.pw_gid, must_switch=True)


def _can_enter(account: SystemAccount, folder: Path) -> bool:
    """Try to enter the folder: mode bits do not show access lists and mount options."""
    if not account.must_switch:
        return True
    shell = shutil.which("sh") or "/bin/sh"
    attempt = subprocess.run(
        [shell, "-c", 'cd "$1"', "sh", str(folder)],
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        user=account.uid,
        group=account.gid,
        extra_groups=[],
    )
    return attempt.returncode == 0

"""Which user PostgreSQL runs as, and a folder that user can reach.

PostgreSQL refuses to run as root. Started by root it is given to an account without rights; its
folder then has to lie where that account can enter, which below /root it cannot.
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
PLACE_RECORD = "postgres-folder.txt"


class AccountError(Exception):
    """No account or folder for the server; the message is one sentence."""


@dataclass(frozen=True)
class SystemAccount:
    """The user a server process runs as; `switch` says whether that needs a change of user."""

    name: str
    uid: int
    gid: int
    switch: bool

    def popen_arguments(self) -> dict[str, object]:
        """What subprocess needs to start a process as this user."""
        if not self.switch:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def give(self, path: Path) -> None:
        """Make the account the owner of one file or folder."""
        if self.switch:
            os.chown(path, self.uid, self.gid)


def server_account(data: Path) -> SystemAccount:
    """The caller, or for root the owner of existing data or else the first unprivileged account.

    Raises AccountError where root finds no such account.
    """
    if os.geteuid() != 0:
        own = pwd.getpwuid(os.geteuid())
        return SystemAccount(own.pw_name, own.pw_uid, own.pw_gid, switch=False)
    if data.is_dir() and (owner_uid := data.stat().st_uid) != 0:
        return _account_of(pwd.getpwuid(owner_uid))
    for name in UNPRIVILEGED_ACCOUNTS:
        try:
            return _account_of(pwd.getpwnam(name))
        except KeyError:
            continue
    raise AccountError(
        "PostgreSQL refuses to run as root and there is no account named"
        f" {', '.join(UNPRIVILEGED_ACCOUNTS)}: create one (useradd --system annals)."
    )


def server_folder(home: Path) -> Path:
    """The folder of data, programs and server logs: home/postgres, or one outside for root.

    Where home lies under a folder that the server's account cannot enter, the folder is
    /var/lib/annals/<digest of home>, and home holds a record of it. Creates both, owned rightly.
    Raises OSError for a home that cannot be written.
    """
    make_home(home)
    record = home / PLACE_RECORD
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
    account.give(folder)
    return folder


def _account_of(entry: pwd.struct_passwd) -> SystemAccount:
    return SystemAccount(entry.pw_name, entry.pw_uid, entry.pw_gid, switch=True)


def _can_enter(account: SystemAccount, folder: Path) -> bool:
    """Ask the system itself: mode bits alone say nothing of access lists and mounts."""
    if not account.switch:
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

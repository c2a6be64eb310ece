"""A sender that kills itself at one step of a send: `python -m tests.support.dying_sender <when>`.

when: `react`, once the process has given its command and before that is committed; `claim`, once
the message is claimed; `call`, once the gateway has taken it; `record`, once what became of it is
written and before that is committed; `end`, once all of that is committed.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any
from unittest import mock

from commands.delivery import inbox
from commands.delivery.sending import SmsDelivery
from commands.sms import SmsCommands
from runtime.settings import Settings
from server.processes import sender

LEASE_MARGIN_S = 0.5
"""So that whoever comes next need not be waited for."""


def die() -> None:
    """kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


def then_die(owner: Any, name: str) -> None:
    """Have a function die after it has done its work, unless there was none."""
    work = getattr(owner, name)

    def work_and_die(*given: Any, **more: Any) -> Any:
        done = work(*given, **more)
        if done is not None or name != "claim":
            die()
        return done

    mock.patch.object(owner, name, work_and_die).start()


PLACES: dict[str, tuple[Any, str]] = {
    "react": (inbox, "_issue"),
    "claim": (SmsDelivery, "claim"),
    "call": (SmsDelivery, "_answered"),
    "record": (SmsCommands, "learn"),
    "end": (SmsDelivery, "end"),
}


if __name__ == "__main__":
    mock.patch.object(sender, "LEASE_MARGIN_S", LEASE_MARGIN_S).start()
    if sys.argv[1] != "never":
        then_die(*PLACES[sys.argv[1]])
    sender.run_sender(Settings())

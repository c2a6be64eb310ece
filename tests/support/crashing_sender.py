"""A sender that kills itself at one step of a send.

`python -m tests.support.crashing_sender <when>`

when: `react`, after the process manager has issued its command and before the commit; `claim`,
after the message is claimed; `call`, after the gateway has accepted the message; `record`, after
the result is written and before the commit; `end`, after that commit; `never`.
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
"""Short, so that the next sender takes over soon."""


def crash() -> None:
    """Kill this process with SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def crash_after(owner: Any, name: str) -> None:
    """Make a function kill the process after its work, unless no message could be claimed."""
    work = getattr(owner, name)

    def work_and_crash(*given: Any, **more: Any) -> Any:
        done = work(*given, **more)
        if done is not None or name != "claim":
            crash()
        return done

    mock.patch.object(owner, name, work_and_crash).start()


PLACES: dict[str, tuple[Any, str]] = {
    "react": (inbox, "_save_commands"),
    "claim": (SmsDelivery, "claim"),
    "call": (SmsDelivery, "_record_success"),
    "record": (SmsCommands, "record_status"),
    "end": (SmsDelivery, "end"),
}


if __name__ == "__main__":
    mock.patch.object(sender, "LEASE_MARGIN_S", LEASE_MARGIN_S).start()
    if sys.argv[1] != "never":
        crash_after(*PLACES[sys.argv[1]])
    sender.run_sender(Settings())

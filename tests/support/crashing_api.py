"""An API that kills itself in the middle of a request.

`python -m tests.support.crashing_api <port> <when>`

when: `answer`, after the commit and before a byte of the answer is sent; `commit`, after the last
write and before the commit; `never`: the test kills it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any
from unittest import mock

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.app import create_app
from commands.committing import batch
from commands.idempotency import remember_answers
from runtime.settings import Settings


def crash() -> None:
    """Kill this process with SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


class CrashesBeforeAnswering:
    """ASGI middleware: crashes instead of answering a request with an idempotency key."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_or_crash(message: Message) -> None:
            if b"idempotency-key" in dict(scope["headers"]):
                crash()
            await send(message)

        await self._app(scope, receive, send_or_crash if scope["type"] == "http" else send)


async def remember_and_crash(*arguments: Any, **options: Any) -> None:
    """Store the answers of a batch, then crash before the commit."""
    await remember_answers(*arguments, **options)
    crash()


if __name__ == "__main__":
    app: ASGIApp = create_app(Settings())
    if sys.argv[2] == "answer":
        app = CrashesBeforeAnswering(app)
    elif sys.argv[2] == "commit":
        mock.patch.object(batch, "remember_answers", remember_and_crash).start()
    uvicorn.run(app, port=int(sys.argv[1]), log_config=None)

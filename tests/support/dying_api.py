"""An API that kills itself in the middle of a request.

`python -m tests.support.dying_api <port> <when>`

when: `answer`, once everything is committed and before a byte of the answer is sent; `commit`, once
everything is written and before it is committed.
"""

from __future__ import annotations

import os
import signal
import sys
from unittest import mock

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.app import create_app
from commands.idempotency import Answer, IdempotencyStore
from runtime.settings import Settings

remember = IdempotencyStore.remember


def die() -> None:
    """kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


class DiesBeforeAnswering:
    """ASGI middleware: dies where the answer to a request with an idempotency key is to be sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_or_die(message: Message) -> None:
            if b"idempotency-key" in dict(scope["headers"]):
                die()
            await send(message)

        await self._app(scope, receive, send_or_die if scope["type"] == "http" else send)


def remember_and_die(memory: IdempotencyStore, answer: Answer) -> None:
    """As Memory.remember; the commit never comes."""
    remember(memory, answer)
    die()


if __name__ == "__main__":
    app: ASGIApp = create_app(Settings())
    if sys.argv[2] == "answer":
        app = DiesBeforeAnswering(app)
    else:
        mock.patch.object(IdempotencyStore, "remember", remember_and_die).start()
    uvicorn.run(app, port=int(sys.argv[1]), log_config=None)

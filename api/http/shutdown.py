"""The signal that the server is about to stop, for streams that would otherwise not end."""

from __future__ import annotations

from collections.abc import Callable


class Shutdown:
    """The beginning of the server's shutdown, before it waits for open requests.

    Kept as `app.state.shutdown`; used in the event loop only.
    """

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []

    def on_begin(self, callback: Callable[[], None]) -> None:
        """Register a callback for the moment at which the shutdown begins."""
        self._callbacks.append(callback)

    def begin(self) -> None:
        """Call the callbacks, in the order of their registration."""
        for callback in self._callbacks:
            callback()

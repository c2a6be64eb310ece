"""The signal that the server is about to stop, for everything that would otherwise not end."""

from __future__ import annotations

from collections.abc import Callable


class Shutdown:
    """Begins when the server starts to stop, before it waits for open requests.

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

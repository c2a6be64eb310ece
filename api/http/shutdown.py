"""A stop that was asked for, told to whatever would go on for ever."""

from __future__ import annotations

from collections.abc import Callable


class Shutdown:
    """Set when the server begins to stop, before it waits for open requests. `app.state.shutdown`.

    Lives in the event loop. A stream that polls looks at `is_set`; one that waits is called.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._calls: list[Callable[[], None]] = []

    def when_set(self, call: Callable[[], None]) -> None:
        """Call this once the stop begins."""
        self._calls.append(call)

    def set(self) -> None:
        """The stop begins."""
        self.is_set = True
        for call in self._calls:
            call()

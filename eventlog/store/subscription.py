"""The library's subscription, by polling."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from eventsourcing.persistence import ApplicationRecorder, Notification, Subscription

SUBSCRIPTION_POLL_S = 0.1
SUBSCRIPTION_PAGE = 500


class PollingSubscription(Subscription[ApplicationRecorder]):
    """Polls in the thread that iterates, and so in the session of that thread."""

    def __init__(
        self, recorder: ApplicationRecorder, gt: int | None = None, topics: Sequence[str] = ()
    ) -> None:
        super().__init__(recorder, gt, topics)
        self._buffer: deque[Notification] = deque()

    def __next__(self) -> Notification:
        while not self._has_been_stopped and not self._buffer:
            self._buffer.extend(self._page())
            if not self._buffer:
                time.sleep(SUBSCRIPTION_POLL_S)
        if self._has_been_stopped:
            raise StopIteration
        notification = self._buffer.popleft()
        self._last_notification_id = notification.id
        return notification

    def _page(self) -> Sequence[Notification]:
        return self._recorder.select_notifications(
            start=self._last_notification_id,
            limit=SUBSCRIPTION_PAGE,
            topics=self._topics,
            inclusive_of_start=False,
        )

"""A projection whose events are watched: a test may raise an error, or spoil the changed row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eventlog.reading import RecordedEvent
from projections.changes import Handler, Patch, Projection, Row, RowChange, RowKey, Rows, Rule, Step


@dataclass(frozen=True)
class Watched:
    """An event as a rule sees it."""

    topic: str
    entity: RowKey
    account: RowKey | None
    version: int
    data: Mapping[str, Any]


Watch = Callable[[Watched], Row | None]
"""Called before each event; returns columns to be set on the row of the event's account, if the
projection is by account, or else of its entity."""


def watched(projection: Projection, watch: Watch) -> Projection:
    """Return the projection, calling `watch` before each of its events."""
    return dataclasses.replace(
        projection,
        rules=tuple(WatchedRule(projection, rule, watch) for rule in projection.rules),
        handlers={
            topic: _handler(projection, handler, watch)
            for topic, handler in projection.handlers.items()
        },
    )


@dataclass(frozen=True)
class WatchedRule:
    """A rule whose steps are watched."""

    projection: Projection
    rule: Rule
    watch: Watch

    @property
    def topics(self) -> frozenset[str]:
        """The topics of the rule."""
        return self.rule.topics

    def steps(self, tables: Mapping[str, Rows]) -> Mapping[str, Step]:
        """The steps of the rule, watched."""
        steps = self.rule.steps(tables)
        rows = tables[self.projection.tables[0].name]
        return {topic: self._step(topic, step, rows) for topic, step in steps.items()}

    def _step(self, topic: str, step: Step, rows: Rows) -> Step:
        def run(
            key: RowKey, account: RowKey | None, version: int, at: str, data: Mapping[str, Any]
        ) -> None:
            spoilt = self.watch(Watched(topic, key, account, version, data))
            step(key, account, version, at, data)
            target = (self.projection.by_account and account) or key
            row = rows.find(target, None) if spoilt else None
            if row is not None:
                for column, value in (spoilt or {}).items():
                    row[rows.slot(column)] = value

        return run


def _handler(projection: Projection, handler: Handler, watch: Watch) -> Handler:
    def run(event: RecordedEvent) -> Iterable[RowChange]:
        workspace, account = event.workspace_id, event.account_id
        entity = (workspace, event.stream_id)
        spoilt = watch(
            Watched(
                event.topic,
                entity,
                (workspace, account) if account else None,
                event.stream_version,
                event.data,
            )
        )
        yield from handler(event)
        if spoilt:
            yield Patch(projection.tables[0].name, projection.entity(event), spoilt)

    return run

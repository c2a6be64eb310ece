"""Events of every released version stay readable (see tests/support/event_samples.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid5

import pytest

from domain.api_key import ApiKey
from domain.shared.entity import Entity
from domain.shared.kinds import AGGREGATE_OF, EVENTS
from eventlog import upcast
from eventlog.connections import Connection
from eventlog.scope import Scope
from eventlog.store.log import EventLog
from eventlog.store.mapper import EventMapper, OrjsonTranscoder
from projections.engine.live.runner import ProjectionEngine
from tests.support.databases import Urls
from tests.support.event_samples import (
    ACCOUNT,
    WORKSPACE,
    Sample,
    history_of,
    samples,
    stored_event,
)
from tests.support.keys import open_key_log
from tests.support.oracle import assert_tables_match_log

every_sample = pytest.mark.parametrize("sample", samples(), ids=lambda sample: sample["topic"])


def test_every_topic_and_version_has_a_sample() -> None:
    recorded = {sample["topic"] for sample in samples()}
    assert set(EVENTS) <= recorded
    assert set(upcast._STEPS) <= recorded


@every_sample
def test_sample_is_upcast_to_the_current_version(sample: Sample) -> None:
    topic, data = upcast.upcast(sample["topic"], sample["data"])
    assert {"topic": topic, "data": data} == sample["expected"]
    assert topic in EVENTS


@every_sample
def test_sample_evolves_its_entity(sample: Sample) -> None:
    mapper = EventMapper(OrjsonTranscoder())
    entity: Any = None
    for each in history_of(sample):
        event = mapper.to_domain_event(stored_event(each))
        entity = event.mutate(entity)
    assert isinstance(entity, AGGREGATE_OF[sample["expected"]["topic"]])
    assert (entity.version, entity.modified_on.isoformat()) == (
        sample["version"],
        sample["occurredAt"],
    )
    if entity.version == 1 and isinstance(entity, Entity):
        assert entity.values == sample["expected"]["data"]["fields"]


def test_log_of_samples_is_projected(
    log: EventLog, engine: ProjectionEngine, database: Connection, urls: Urls
) -> None:
    with open_key_log(urls.owner) as key_log:
        for sample in samples():
            chosen = key_log if sample["topic"].startswith(f"{ApiKey.TOPIC}.") else log
            # A stream for each sample; the account that exists at the end is that of the others.
            is_account = sample["topic"].startswith("account.restored")
            name = f"{sample['topic']} {sample['version']}"
            stream = ACCOUNT if is_account else uuid5(ACCOUNT, name)
            events = [
                replace(stored_event(each), originator_id=stream) for each in history_of(sample)
            ]
            with chosen.scoped(Scope(WORKSPACE)):
                chosen.recorder.insert_events(events)
    engine.catch_up()
    assert_tables_match_log(database)

"""The counter of requests, with a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.http.limits.keys import RouteClass, network_of, route_class
from api.http.limits.rates import Quota, RateCounter
from runtime.settings import Settings
from tests.support.api_server import Api
from tests.support.waiting import StoppedClock


def accepted(counter: RateCounter, quota: Quota, attempts: int, key: str = "key") -> int:
    """Send requests at once; return how many were within the quota."""
    count = 0
    for _ in range(attempts):
        if not counter.wait_s(key, quota):
            counter.count(key, quota)
            count += 1
    return count


def test_quota_is_available_at_once_and_comes_back_steadily() -> None:
    clock = StoppedClock()
    counter, quota = RateCounter(clock=clock), Quota("reads", 6)
    assert accepted(counter, quota, 10) == 6
    assert counter.wait_s("key", quota) == pytest.approx(10)
    clock.now_s += 10
    assert accepted(counter, quota, 10) == 1
    clock.now_s += 30
    assert accepted(counter, quota, 10) == 3
    clock.now_s += 600
    assert accepted(counter, quota, 10) == 6


def test_keys_are_counted_apart() -> None:
    counter, quota = RateCounter(clock=StoppedClock()), Quota("reads", 2)
    assert accepted(counter, quota, 3, "one") == 2
    assert accepted(counter, quota, 3, "other") == 2


def test_header_shows_what_is_left_and_when_there_is_more() -> None:
    clock = StoppedClock()
    counter, quota = RateCounter(clock=clock), Quota("reads", 3)
    assert quota.policy == '"reads";q=3;w=60'
    assert counter.count("key", quota) == '"reads";r=2;t=20'
    clock.now_s += 5
    assert counter.count("key", quota) == '"reads";r=1;t=15'
    assert counter.count("key", quota) == '"reads";r=0;t=15'
    clock.now_s += 600
    assert counter.count("key", quota) == '"reads";r=2;t=20'


@given(
    requests=st.integers(1, 20),
    pauses_s=st.lists(st.floats(0, 30), max_size=100),
)
def test_no_window_has_more_than_twice_the_quota_and_a_client_that_waits_is_served(
    requests: int, pauses_s: list[float]
) -> None:
    clock = StoppedClock()
    counter, quota = RateCounter(clock=clock), Quota("reads", requests, window_s=10)
    served_s: list[float] = []
    for pause_s in pauses_s:
        clock.now_s += pause_s
        if wait_s := counter.wait_s("key", quota):
            clock.now_s += wait_s
            assert counter.wait_s("key", quota) == 0
        counter.count("key", quota)
        served_s.append(clock.now_s)
    for first_s in served_s:
        in_window = sum(first_s <= each < first_s + quota.window_s for each in served_s)
        assert in_window <= 2 * requests


def test_counted_keys_are_limited_and_the_oldest_is_forgotten() -> None:
    counter, quota = RateCounter(clock=StoppedClock(), keys_max=2), Quota("reads", 1)
    for key in ("a", "b"):
        counter.count(key, quota)
    counter.count("c", quota)
    assert not counter.wait_s("a", quota)
    assert counter.wait_s("b", quota)
    assert counter.wait_s("c", quota)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("", ""),
    ],
)
def test_ipv6_addresses_of_one_network_are_one_client(address: str, network: str) -> None:
    assert network_of(address) == network


def test_every_stream_and_bulk_operation_is_counted_as_one(api: Api) -> None:
    found: dict[RouteClass, set[str]] = {each: set() for each in RouteClass}
    for path, methods in api.app.openapi()["paths"].items():
        for method, operation in methods.items():
            class_ = route_class(method.upper(), path)
            found[class_].add(operation["operationId"])
            streams = {"text/event-stream", "application/x-ndjson"} & set(
                operation["responses"].get("200", {}).get("content", {})
            )
            assert (class_ is RouteClass.STREAMS) == bool(streams), path
            if "202" in operation["responses"]:
                assert class_ is RouteClass.BULK or path.startswith("/api/projections"), path
    assert {"changeInBulk", "uploadImport", "previewImport", "startImport", "undo"} <= found[
        RouteClass.BULK
    ]
    assert {"listAccounts", "getImport", "getJob"} <= found[RouteClass.READS]
    assert {"createAccount", "convertLead"} <= found[RouteClass.WRITES]


@pytest.mark.parametrize(
    "rates", ["member=5", "member.exports=5", "owner.reads=5", "member.reads="]
)
def test_rates_of_unknown_roles_or_classes_are_refused(rates: str) -> None:
    with pytest.raises(ValueError, match="rate_by_role"):
        Settings(rate_by_role=rates)

"""The quotas of API keys: by role and class of route, for a key and for its workspace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address
from math import ceil
from uuid import UUID

from starlette.requests import HTTPConnection

from api.http.limits.rates import Quota, RateCounter
from domain.api_key import Role
from runtime import codes
from runtime.errors import ApiError
from runtime.settings import Settings, parse_role_rates

ROUTES_MAX = 1_000
ADDRESSES_MAX = 10_000
"""Maximum numbers of routes and addresses whose class or network is remembered."""
IPV6_NETWORK_BITS = 64
"""An IPv6 client usually has this network to itself, and can change its address within it."""


RATE_LIMIT = "rate_limit"
"""Where the state of a request has the headers that say what is left of its quotas."""


class RouteClass(StrEnum):
    """Routes that cost about the same, and share a quota."""

    READS = "reads"
    WRITES = "writes"
    BULK = "bulk"
    """Imports with their previews, bulk changes, undo and checks of the log: one request reads or
    writes many rows."""
    STREAMS = "streams"
    """Exports, and streams of changes and of job progress: one response may take minutes."""


BULK_PREFIXES = ("/api/bulk", "/api/imports", "/api/undo", "/api/log")
STREAM_ENDINGS = ("/export", "/events", "/api/realtime", "/api/realtime/ws")
READ_METHODS = frozenset({"GET", "HEAD"})


@lru_cache(ROUTES_MAX)
def route_class(method: str, template: str) -> RouteClass:
    """Return the class of a route, from its method and the template of its path."""
    if template.endswith(STREAM_ENDINGS):
        return RouteClass.STREAMS
    is_read = method in READ_METHODS
    if template.startswith(BULK_PREFIXES) and (not is_read or template.endswith("/preview")):
        return RouteClass.BULK
    return RouteClass.READS if is_read else RouteClass.WRITES


@dataclass(frozen=True)
class _Counted:
    """A quota, and whether it is that of a key or that of its whole workspace."""

    quota: Quota
    of_workspace: bool


class KeyQuotas:
    """The quotas that the settings define, and how much of them each key has used."""

    def __init__(self, settings: Settings, counter: RateCounter) -> None:
        self._counter = counter
        self._limits = {
            (role, each): (found, ", ".join(counted.quota.policy for counted in found))
            for role in Role
            for each, found in _quotas_of(role, settings)
        }

    def count(
        self, connection: HTTPConnection, key_id: UUID, workspace_id: UUID, role: Role
    ) -> None:
        """Count a request of this key, and note its headers. Raises 429 (E4020).

        A refused request is not counted, so a client that waits as long as it should is served.
        """
        scope = connection.scope
        template = getattr(scope.get("route"), "path", "")
        class_ = route_class(scope.get("method", "GET"), template)
        found, policy = self._limits[role, class_]
        if not found:
            return
        headers = {"RateLimit-Policy": policy}
        scope.setdefault("state", {})[RATE_LIMIT] = headers
        # Numbers and strings, whose hashes are those of C.
        ids = {False: key_id.int, True: workspace_id.int}
        counts = [((ids[each.of_workspace], each.quota.name), each.quota) for each in found]
        for key, quota in counts:
            if wait_s := self._counter.wait_s(key, quota):
                retry_after = str(ceil(wait_s))
                headers["RateLimit"] = f'"{quota.name}";r=0;t={retry_after}'
                raise ApiError(
                    codes.TOO_MANY_REQUESTS,
                    headers={"Retry-After": retry_after},
                    policy=quota.name,
                    limit=quota.requests,
                    windowSeconds=quota.window_s,
                )
        headers["RateLimit"] = ", ".join(self._counter.count(*each) for each in counts)


class FailureQuota:
    """How many credentials one client address may try in vain. Used in the event loop only."""

    def __init__(self, settings: Settings, counter: RateCounter) -> None:
        most = settings.rate_auth_failures_per_minute
        self._quota = Quota("failed-authentications", most) if most else None
        self._counter = counter

    def wait_s(self, address: str) -> float:
        """Return the seconds for which this address may try no further credentials."""
        if self._quota is None:
            return 0.0
        return self._counter.wait_s(network_of(address), self._quota)

    def count(self, address: str) -> None:
        """Count credentials that were not valid."""
        if self._quota is not None:
            self._counter.count(network_of(address), self._quota)


@lru_cache(ADDRESSES_MAX)
def network_of(address: str) -> str:
    """Return what a client cannot change easily: an IPv4 address, or the network of an IPv6 one."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(IPv6Network((int(found), IPV6_NETWORK_BITS), strict=False))
    return str(found)


def _quotas_of(role: Role, settings: Settings) -> Iterator[tuple[RouteClass, list[_Counted]]]:
    by_default: Mapping[RouteClass, int] = {
        RouteClass.READS: settings.rate_reads_per_minute,
        RouteClass.WRITES: settings.rate_writes_per_minute,
        RouteClass.BULK: settings.rate_bulk_per_minute,
        RouteClass.STREAMS: settings.rate_streams_per_minute,
    }
    of_roles = parse_role_rates(settings.rate_by_role)
    for each, usual in by_default.items():
        of_key = of_roles.get((role.value, each.value), usual)
        of_workspace = usual * settings.rate_workspace_keys
        found = []
        if of_key:
            found.append(_Counted(Quota(each.value, of_key), of_workspace=False))
        if of_workspace:
            found.append(_Counted(Quota(f"workspace-{each}", of_workspace), of_workspace=True))
        yield each, found

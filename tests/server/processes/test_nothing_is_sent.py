"""Replays and rebuilds cannot send anything: they import no sending code and give no commands."""

from __future__ import annotations

import ast
import tomllib
from datetime import UTC, datetime

import orjson

from commands.delivery.inbox import register_processes
from commands.processes import PROCESSES
from domain.sms import Sms
from eventlog.connections import write_pool
from projections.engine.live.runner import ProjectionEngine
from projections.engine.rebuild.runner import Rebuild
from projections.engine.registry import PROJECTIONS
from readmodels import table_definitions
from replay.as_of import AsOfQuery, entity_as_of, list_as_of
from runtime.settings import REPOSITORY
from tests.support.databases import Urls
from tests.support.processes import running_engine
from tests.support.sms_harness import CountingGateway, SmsHarness

SENDING_PACKAGES = {
    "commands",
    "runtime",
    "api",
    "server",
    "httpx",
    "requests",
    "urllib",
    "smtplib",
    "twilio",
}
HISTORY_PACKAGES = ("domain", "eventlog", "projections", "readmodels", "replay")


def test_rebuild_and_replay_of_all_history_send_nothing(
    sms_harness: SmsHarness, engine: ProjectionEngine, urls: Urls
) -> None:
    gateway = CountingGateway()
    requested = [sms_harness.ask(message=f"number {number}") for number in range(3)]
    sms_harness.send_all(gateway)
    assert len(gateway.taken) == len(requested)
    effects = _load_effects(sms_harness)
    with running_engine(engine):
        names = {name: table_definitions()[name] for name in PROJECTIONS}
        Rebuild(urls.projector, names, workers=2).run()
    now = datetime.now(UTC)
    query = AsOfQuery(sms_harness.scope.workspace_id, "leads", now)
    with write_pool(urls.app) as pool:
        assert len(orjson.loads(list_as_of(pool, query))["items"]) == len(requested)
    for sms in requested:
        assert entity_as_of(sms_harness.log, sms_harness.scope, Sms, sms, at=now) is not None
    register_processes(sms_harness.follower, PROCESSES.values())
    sms_harness.send_all(gateway)
    assert len(gateway.taken) == len(requested), "no further call"
    assert _load_effects(sms_harness) == effects


def test_packages_that_read_history_cannot_import_packages_that_send() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    contracts = {each["name"]: each for each in project["tool"]["importlinter"]["contracts"]}
    contract = contracts["A replay or a rebuild cannot send anything"]
    assert set(contract["source_modules"]) == set(HISTORY_PACKAGES)
    assert {"commands", "runtime", "api", "server"} <= set(contract["forbidden_modules"])
    for package in HISTORY_PACKAGES:
        for path in (REPOSITORY / package).rglob("*.py"):
            assert not _imported_packages(path.read_text("utf-8")) & SENDING_PACKAGES, path


def _imported_packages(source: str) -> set[str]:
    """Return the packages that a module imports, at its top or within functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def _load_effects(sms_harness: SmsHarness) -> list[tuple[object, ...]]:
    """Return the commands and the number of events: sending would change them."""
    return [
        *sms_harness.commands(),
        *sms_harness.database.execute("SELECT count(*) FROM events").fetchall(),
    ]

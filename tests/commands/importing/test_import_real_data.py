"""Imports a pipeline of thousands of deals: its history must agree with the files on every day.

The files are a published data set if it is stored beside the clone, else generated ones of the same
shape. The expected numbers are counted from the files, independently of the import.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

from eventlog.connections import write_pool
from runtime.settings import REPOSITORY
from server.cli.local.importing import known_values
from tests.support.databases import Urls
from tests.support.imports import Importer

PUBLISHED = REPOSITORY.parent / "shared" / "data" / "crm-sales-opportunities"
GENERATED_DEALS = 2_000
STAGES = ("Prospecting", "Engaging", "Won", "Lost")
PRODUCTS = ("GTX Basic", "GTX Pro", "MG Special")
DAYS = tuple(datetime(2017, month, 30, tzinfo=UTC) for month in (3, 6, 11))

DEALS = {
    "mapping": {
        "opportunity_id": "name",
        "sales_agent": "assignedTo",
        "account": "accountId",
        "deal_stage": "stage",
        "engage_date": "engagedOn",
        "close_date": "closedOn",
        "close_value": "value",
    },
    "dedupe_by": ("name",),
}
ACCOUNTS = {
    "mapping": {"account": "company"},
    "defaults": {"type": "customer"},
    "corrections": {"sector": {"technolgy": "technology"}},
    "dedupe_by": ("company",),
}
MEMBERS = {"mapping": {"sales_agent": "name"}, "dedupe_by": ("name",)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the four files."""
    if PUBLISHED.is_dir():
        return PUBLISHED
    folder = tmp_path_factory.mktemp("pipeline")
    generate(folder)
    return folder


def test_pipeline_in_the_log_matches_the_files(importer: Importer, urls: Urls, files: Path) -> None:
    deals = list(read(files / "sales_pipeline.csv"))
    options = DEALS | {"known": {"product": known_values(files / "products.csv", "product")}}
    members = importer.run("members", files / "sales_teams.csv", **MEMBERS)
    accounts = importer.run("accounts", files / "accounts.csv", **ACCOUNTS)
    result = importer.run("opportunities", files / "sales_pipeline.csv", **options)

    assert members.created == len(list(read(files / "sales_teams.csv")))
    assert accounts.warnings == {
        "corrected": sum(row["sector"] == "technolgy" for row in read(files / "accounts.csv"))
    }
    assert (result.created, result.failed) == (len(deals), 0)
    assert result.warnings == {
        "corrected": sum(row["product"] == "GTXPro" for row in deals),
        "no_account": sum(not row["account"] for row in deals),
    }
    stages = importer.page("opportunities")["aggregations"]["byStage"]
    counts = Counter(row["deal_stage"].lower() for row in deals)
    if files == PUBLISHED:
        assert counts == {"won": 4_238, "lost": 2_473, "engaging": 1_589, "prospecting": 500}
        assert won_value(deals) == 10_005_534
    assert {name: stage["count"] for name, stage in stages.items()} == counts
    assert Decimal(stages["won"]["value"]) == won_value(deals)

    with write_pool(urls.app) as pool:
        for day in DAYS:
            then = importer.pipeline(pool, day)
            assert {name: stage["count"] for name, stage in then.items()} == on_day(deals, day)

    again = importer.run("opportunities", files / "sales_pipeline.csv", **options)
    assert (again.created, again.skipped) == (0, len(deals))


def read(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def won_value(deals: list[dict[str, str]]) -> Decimal:
    return sum(
        (Decimal(row["close_value"]) for row in deals if row["deal_stage"] == "Won"), Decimal()
    )


def on_day(deals: list[dict[str, str]], day: datetime) -> dict[str, int]:
    """Return the number of deals by stage at the start of that day (UTC), counted from the file."""
    counts: Counter[str] = Counter()
    for row in deals:
        engaged, closed = us_day(row["engage_date"]), us_day(row["close_date"])
        if closed and closed <= day.date():
            counts[row["deal_stage"].lower()] += 1
        elif engaged and engaged <= day.date():
            counts["engaging"] += 1
    return counts


def us_day(text: str) -> date | None:
    return datetime.strptime(text, "%m/%d/%Y").date() if text else None  # noqa: DTZ007


def generate(folder: Path) -> None:
    """Generate files like the published ones, with the same mistakes."""
    random = Random(1)
    agents = [f"Agent {chr(65 + number)}" for number in range(20)]
    firms = [f"Firm {chr(65 + one)}{chr(97 + other)}" for one in range(10) for other in range(5)]
    write(folder / "sales_teams.csv", "sales_agent,manager", ([name, "Boss"] for name in agents))
    write(folder / "products.csv", "product,sales_price", ([name, "100"] for name in PRODUCTS))
    sectors = ("technolgy", "retail")
    write(folder / "accounts.csv", "account,sector", ([n, random.choice(sectors)] for n in firms))
    header = "opportunity_id,sales_agent,product,account,deal_stage,engage_date,close_date"
    deals = (deal(random, number, agents, firms) for number in range(GENERATED_DEALS))
    write(folder / "sales_pipeline.csv", f"{header},close_value", deals)


def deal(random: Random, number: int, agents: list[str], firms: list[str]) -> list[str]:
    stage = random.choice(STAGES)
    engaged = date(2016, 10, 1) + timedelta(days=random.randrange(365))
    closed = engaged + timedelta(days=random.randrange(120))
    is_closed = stage in ("Won", "Lost")
    return [
        f"DEAL{number:04}",
        random.choice(agents),
        random.choice(PRODUCTS).replace("GTX Pro", "GTXPro"),
        random.choice([*firms, ""]),
        stage,
        "" if stage == "Prospecting" else f"{engaged.month}/{engaged.day}/{engaged.year}",
        f"{closed.month}/{closed.day}/{closed.year}" if is_closed else "",
        {"Won": str(random.randrange(50, 5_000)), "Lost": "0"}.get(stage, ""),
    ]


def write(path: Path, header: str, rows: Iterator[list[str]]) -> None:
    lines = [header, *(",".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", "utf-8")

"""Alerts and dashboard: valid, explained, and firing when they should.

test_stack.py compares the metrics that they name with those of a running server.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter

import promql_parser
import pytest

from runtime.settings import REPOSITORY, Settings
from tests.support.compose import load_compose, load_yaml
from tests.support.promql import (
    ALERTS_FILE,
    Query,
    alert_queries,
    alerting_rules,
    dashboard,
    dashboard_queries,
    exposed_names,
    unknown_names,
)
from tests.support.source_files import refuse

DEPLOY = REPOSITORY / "deploy"
RULES = alerting_rules()
PANELS = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
EXPOSED = 'annals_x_total{job="a",code="E1"} 1\n'


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("sum by (code) (rate(annals_x_total[5m]))", []),
        ("annals_y_total", ["here: no metric annals_y_total"]),
        ('rate(annals_x_total{cod="E1"}[5m])', ["here: no label cod"]),
        ("sum by (kode) (annals_x_total)", ["here: no label kode"]),
        ("annals_x_total and on (cod) annals_x_total", ["here: no label cod"]),
        ("max_over_time(annals_z[1h:5m]) or vector(0)", ["here: no metric annals_z"]),
    ],
)
def test_unknown_names_are_found_anywhere_in_a_query(expression: str, expected: list[str]) -> None:
    assert unknown_names(Query("here", expression), exposed_names(EXPOSED)) == expected


@pytest.mark.parametrize(
    "query", alert_queries() + dashboard_queries(), ids=lambda each: each.place
)
def test_query_is_valid(query: Query) -> None:
    promql_parser.parse(query.expression)


def test_alerts_have_unique_names_severities_and_summaries() -> None:
    assert [name for name, n in Counter(rule["alert"] for rule in RULES).items() if n > 1] == []
    assert {rule["labels"]["severity"] for rule in RULES} == {"critical", "warning"}
    assert all(rule["annotations"]["summary"] for rule in RULES)


def test_each_alert_has_a_paragraph_in_the_runbook() -> None:
    for rule in RULES:
        document, anchor = rule["annotations"]["runbook"].split("#")
        headings = HEADING.findall((REPOSITORY / document).read_text("utf-8"))
        assert anchor == rule["alert"].lower()
        assert rule["alert"] in headings


def test_runbook_has_no_paragraph_of_an_alert_that_does_not_exist() -> None:
    headings = HEADING.findall((REPOSITORY / "docs/how-to/operate.md").read_text("utf-8"))
    alerts = {rule["alert"] for rule in RULES}
    assert {each for each in headings if re.fullmatch("Annals[A-Z]\\w+", each)} == alerts


def test_limits_in_alerts_are_the_defaults_of_the_settings() -> None:
    (behind,) = (rule["expr"] for rule in RULES if rule["alert"] == "AnnalsProjectionBehind")
    assert behind.endswith(f"> {Settings.model_fields['ready_lag_max_s'].default:.0f}")


def test_each_alert_has_a_test_in_which_it_fires() -> None:
    tests = load_yaml(DEPLOY / "alerts_test.yaml")["tests"]
    firing = {
        sample["labels"]
        for test in tests
        for check in test["promql_expr_test"]
        for sample in check["exp_samples"]
    }
    assert firing == {f'{{alertname="{rule["alert"]}"}}' for rule in RULES}


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "alerts.yaml"),
        ("test", "rules", "alerts_test.yaml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
    ],
    ids=" ".join,
)
def test_promtool_accepts_what_is_for_prometheus(
    arguments: tuple[str, ...],
) -> None:
    """promtool is in Debian's package prometheus; without it, the other tests here still run."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    result = subprocess.run(
        ["promtool", *arguments], cwd=DEPLOY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_configuration_of_prometheus_fits_the_other_files() -> None:
    configuration = load_yaml(DEPLOY / "prometheus.yml")
    assert configuration["rule_files"] == [ALERTS_FILE.name]
    (scraped,) = configuration["scrape_configs"]
    assert all('job="annals"' in rule["expr"] for rule in RULES if "up{" in rule["expr"])
    assert scraped["job_name"] == "annals"
    compose = load_compose()
    (port,) = compose["services"]["api"]["ports"]
    assert scraped["static_configs"] == [{"targets": [port.rpartition(":")[0]]}]
    assert scraped["authorization"]["credentials_file"] in compose["secrets"]


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert max(Counter(panel["id"] for panel in panels).values()) == 1
    cells = Counter(
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    assert max(cells.values()) == 1
    assert max(x for x, _ in cells) < 24


def test_panels_have_a_title_a_description_a_unit_and_a_query() -> None:
    refuse(
        str(panel.get("title", panel["id"]))
        for panel in PANELS
        if not (panel["title"] and panel["description"] and panel["targets"])
        or not panel["fieldConfig"]["defaults"].get("unit")
    )


def test_data_source_is_chosen_by_a_variable() -> None:
    variables = {each["name"]: each["type"] for each in dashboard()["templating"]["list"]}
    assert variables == {"datasource": "datasource", "job": "query"}
    sources = [panel["datasource"] for panel in PANELS]
    sources += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    assert all(each == {"type": "prometheus", "uid": "${datasource}"} for each in sources)


def test_dashboard_names_no_host() -> None:
    text = (DEPLOY / "grafana-dashboard.json").read_text("utf-8")
    assert not re.search(r"https?://|localhost|\d+\.\d+\.\d+\.\d+", text)

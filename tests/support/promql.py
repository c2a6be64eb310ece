"""The queries of deploy/: which metrics and labels they name."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import promql_parser
from prometheus_client.parser import text_string_to_metric_families

from runtime.settings import REPOSITORY
from tests.support.compose import load_yaml

ALERTS_FILE = REPOSITORY / "deploy" / "alerts.yaml"
DASHBOARD_FILE = REPOSITORY / "deploy" / "grafana-dashboard.json"
OF_PROMETHEUS = {"up": {"job", "instance"}, "ALERTS": {"job", "alertname", "alertstate"}}
"""Series that Prometheus makes itself."""
TARGET_LABELS = {"job", "instance"}
"""Labels that Prometheus adds to every series that it reads."""
LEGEND_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass
class Query:
    """A query of PromQL, and the labels that its result is shown with."""

    place: str
    expression: str
    shown_labels: set[str] = field(default_factory=set)


def alerting_rules() -> list[dict[str, Any]]:
    """Return the rules of deploy/alerts.yaml."""
    return [rule for group in load_yaml(ALERTS_FILE)["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """Return the Grafana dashboard."""
    content = json.loads(DASHBOARD_FILE.read_text("utf-8"))
    assert isinstance(content, dict)
    return content


def alert_queries() -> list[Query]:
    """Return the queries of the alerts."""
    return [Query(rule["alert"], rule["expr"]) for rule in alerting_rules()]


def dashboard_queries() -> list[Query]:
    """Return the queries of the dashboard, with its variables replaced."""
    return [
        Query(
            panel["title"],
            target["expr"].replace("$__rate_interval", "5m").replace("$job", "annals"),
            set(LEGEND_LABEL.findall(target["legendFormat"])),
        )
        for panel in dashboard()["panels"]
        for target in panel.get("targets", [])
    ]


def unknown_names(query: Query, exposed: dict[str, set[str]]) -> list[str]:
    """Return the metrics and labels of a query that are not among the exposed ones."""
    metrics, labels = _names(query)
    known = TARGET_LABELS.union(*(exposed.get(each, set()) for each in metrics))
    return [
        *(f"{query.place}: no metric {each}" for each in metrics if each not in exposed),
        *(f"{query.place}: no label {each}" for each in labels - known),
    ]


def exposed_names(*texts: str) -> dict[str, set[str]]:
    """Return the labels of each series in texts of Prometheus' format."""
    found = {name: set(labels) for name, labels in OF_PROMETHEUS.items()}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def _names(query: Query) -> tuple[set[str], set[str]]:
    """Return the metrics and the labels that a query names. Raises ValueError for bad syntax."""
    metrics, labels = set(), set(query.shown_labels)

    def visit(node: promql_parser.Expr) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            metrics.add(str(node.name))
            labels.update(each.name for each in node.matchers.matchers)
        elif isinstance(node, promql_parser.MatrixSelector):
            visit(node.vector_selector)
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            labels.update(node.modifier.labels)
        elif isinstance(node, promql_parser.BinaryExpr) and node.modifier:
            labels.update(node.modifier.group_labels or [])
            if node.modifier.matching:
                labels.update(node.modifier.matching.labels)
        return True

    promql_parser.walk(promql_parser.parse(query.expression), visit)
    return metrics, labels

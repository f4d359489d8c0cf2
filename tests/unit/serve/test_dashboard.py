"""The Grafana dashboard asks only for numbers and labels that the service has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.local_service import every_number

DASHBOARD = Path(__file__).resolve().parents[3] / "serve" / "monitoring" / "dashboard.json"
PANELS: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """Returns the labels of each sample by its name."""
    metrics = every_number()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.text()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_names_numbers_and_labels_that_there_are(query: str, labels: dict[str, set[str]]) -> None:
    names = re.findall(r"\byt8m_\w+", query)
    assert names and set(names) <= labels.keys()
    grouped = [part for group in re.findall(r"\bby \(([^)]*)\)", query) for part in group.split(", ")]
    matched = re.findall(r"(\w+)[!=]~?=?\"", query)
    assert {*grouped, *matched} <= set.union(*(labels[name] for name in names))


@pytest.mark.parametrize("query", QUERIES)
def test_brackets_of_a_query_close(query: str) -> None:
    for opening, closing in ("()", "[]", "{}"):
        assert query.count(opening) == query.count(closing)


def test_every_number_of_the_service_is_on_the_dashboard(labels: dict[str, set[str]]) -> None:
    shown = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in re.findall(r"\byt8m_\w+", " ".join(QUERIES))}
    there = {re.sub(r"_(bucket|sum|count|total|created)$", "", name) for name in labels}
    assert there - shown == set()


def test_panels_lie_side_by_side_and_have_a_description() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in PANELS)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    assert all(panel["title"] and panel["description"] for panel in PANELS)

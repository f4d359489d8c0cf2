"""docs/serving.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from serve.errors import CODES
from serve.operations.metrics import merge_expositions
from serve.settings import Limits, ServeArgs
from tests.support.local_service import every_number

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "serving.md").read_text()


def test_every_status_has_its_code_in_the_table() -> None:
    rows = {int(status): code for status, code in re.findall(r"^\| (\d{3}) \| `(\w+)` \|", DOCUMENT, re.M)}
    assert rows == {status: code for status, code in CODES.items() if status != 499}
    assert CODES[499] in DOCUMENT


def test_every_number_is_in_the_table_with_its_labels() -> None:
    rows = {
        name.removesuffix("_total"): set(re.findall(r"`(\w+)`", labels))
        for name, labels in re.findall(r"^\| `(yt8m_\w+)` \| ([^|]*)\|", DOCUMENT, re.M)
    }
    metrics = every_number()
    families = text_string_to_metric_families(merge_expositions([metrics.text()]))
    found = {family.name: set(family.samples[0].labels) - {"replica", "le"} for family in families}
    assert rows == found


def test_the_limits_and_arguments_that_it_names_exist() -> None:
    named = {
        name
        for row in re.findall(r"^\| \d{3} .*", DOCUMENT, re.M)
        for name in re.findall(r"`((?:max_)?\w+_s|max_\w+)`", row)
    }
    assert named and named <= Limits.model_fields.keys()
    assert set(re.findall(r"`args\.(\w+)", DOCUMENT)) <= ServeArgs.model_fields.keys()

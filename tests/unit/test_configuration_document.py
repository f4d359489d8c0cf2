"""docs/configuration.md is what the types say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_reference_of_keys_is_what_the_types_say() -> None:
    written = (DOCS / "configuration.md").read_text(encoding="utf-8")

    assert written == runpy.run_path(str(DOCS / "configuration.py"))["document"](), "run: python docs/configuration.py"


@pytest.mark.parametrize(
    "key", ["train.batch_size", "tune.space", "transform.name", "max_queued_videos", "num_clusters"]
)
def test_a_key_of_every_kind_of_document_is_in_it(key: str) -> None:
    lines = (DOCS / "configuration.md").read_text(encoding="utf-8").splitlines()

    assert any(line.startswith(f"| `{key}` |") for line in lines)

"""The blocks of docs/python.md that need Ray, on the cluster of the other tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "python.md"


def test_the_blocks_of_the_document_run(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python ray\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S)

    namespace: dict[str, Any] = {}
    exec(compile("import yt8m_ray\n" + code, str(DOCUMENT), "exec"), namespace)

    assert namespace["scores"]["num_videos"] == 279
    assert namespace["scores"]["gap"] == pytest.approx(namespace["result"].metrics["validation/gap"])
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 280

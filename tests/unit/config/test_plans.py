"""The plans of benchmarks/recipe_search.py: every run in them is a config that loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from yt8m_ray.config.document import load_document
from yt8m_ray.config.train import TrainConfig

ROOT = Path(__file__).resolve().parents[3]
PLANS = sorted((ROOT / "benchmarks" / "plans").glob("*.yaml"))
RUNS: dict[str, dict[str, Any]] = {
    f"{path.stem}: {name}": run or {}
    for path in PLANS
    for name, run in yaml.safe_load(path.read_text("utf-8"))["runs"].items()
}
assert RUNS


@pytest.mark.parametrize("name", RUNS)
def test_a_planned_run_is_a_config_that_loads(name: str) -> None:
    run = RUNS[name]
    path = ROOT / "configs" / "train" / f"{run.get('config', 'moe_video')}.yaml"

    config = load_document(path, TrainConfig, run.get("changes", []))

    assert config.data.spec.is_video_level

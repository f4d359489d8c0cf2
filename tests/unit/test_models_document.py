"""docs/models.md: every model of the registry is in it, at the size that its config has."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks.model_table import SOURCES, TARGET, build, published_configs
from yt8m_ray.models import MODELS

CONFIGS = published_configs()
ROWS = {
    cells[2].partition("[")[2].partition("]")[0]: cells
    for cells in ([cell.strip() for cell in line.split("|")] for line in TARGET.read_text("utf-8").splitlines())
    if len(cells) > 3 and cells[2].startswith("[")
}


def test_every_model_of_the_registry_has_a_published_config() -> None:
    assert {config.model.name for config in CONFIGS.values()} == set(MODELS.names())


def test_every_published_config_has_a_source_and_a_row() -> None:
    assert SOURCES.keys() == CONFIGS.keys()
    assert ROWS.keys() == CONFIGS.keys()


@pytest.mark.parametrize("stem", CONFIGS)
def test_a_row_states_the_size_of_its_config(stem: str) -> None:
    with torch.device("meta"):
        model = build(CONFIGS[stem])
    cells = ROWS[stem]
    assert cells[1] == f"`{CONFIGS[stem].model.name}`"
    assert cells[4] == f"{sum(parameter.numel() for parameter in model.parameters()):,}"

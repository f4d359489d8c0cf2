"""docs/models.md: every model of the registry is in it, at the size that its config has."""

from __future__ import annotations

import pytest
import torch

from benchmarks.model_table import SOURCES, TARGET, build, clips_of, published_configs
from yt8m_ray.models import MODELS
from yt8m_ray.models.cost import count_macs, num_parameters

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
    assert cells[4] == f"{num_parameters(model):,}"


@pytest.mark.parametrize("stem", [stem for stem in CONFIGS if "gru" not in stem])  # whose steps take seconds to count
def test_a_row_states_the_arithmetic_of_its_config(stem: str) -> None:
    with torch.device("meta"):
        model = build(CONFIGS[stem])
    num_frames = clips_of(CONFIGS[stem], 0)[0].shape[1]
    assert ROWS[stem][5] == f"{count_macs(model, num_frames=num_frames) / 1e9:,.3f} G"

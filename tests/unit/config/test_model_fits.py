"""A model that does not fit its data, or its own options, is refused when the config loads."""

from __future__ import annotations

import pytest

from yt8m_ray.config.document import ConfigError, load_document
from yt8m_ray.config.train import TrainConfig


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("nextvlad", ["model.groups=7"], "model: groups: 7 groups need a widened feature that they divide"),
        ("branched_gru", ["data.features={rgb: 1024, audio: 1}"], "branched_gru needs features of at least 2 values"),
    ],
)
def test_what_only_a_built_model_can_refuse_is_refused_early(config: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_document(f"configs/train/{config}.yaml", TrainConfig, overrides)

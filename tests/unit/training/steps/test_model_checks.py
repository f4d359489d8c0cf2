"""A model that does not fit its data, or its own options, is refused when the config loads."""

from __future__ import annotations

import pytest

from yt8m_ray.config.document import load_document
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.models import MODELS, Model
from yt8m_ray.registry import ComponentConfig
from yt8m_ray.training.steps.model_checks import check_models


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("nextvlad", ["model.groups=7"], "model: groups: 7 groups need a widened feature that they divide"),
        ("branched_gru", ["data.features={rgb: 1024, audio: 1}"], "branched_gru needs features of at least 2 values"),
    ],
)
def test_a_model_that_does_not_fit_its_features_is_refused(config: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_document(f"configs/train/{config}.yaml", TrainConfig, overrides)


class ForeignConfig(ComponentConfig):
    """As a package of somebody else defines one."""

    name: str = "foreign"


def needs_storage(*_: object, **__: object) -> Model:
    raise RuntimeError("this needs storage")


def test_a_model_from_outside_that_needs_storage_is_left_to_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS._config_types, "foreign", ForeignConfig)
    monkeypatch.setitem(MODELS._factories, "foreign", needs_storage)

    check_models(load_document("configs/train/moe_video.yaml", TrainConfig, ["model={name: foreign}"]))


def test_one_of_ours_that_needs_storage_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS._factories, "moe", needs_storage)

    with pytest.raises(RuntimeError, match="this needs storage"):
        check_models(load_document("configs/train/moe_video.yaml", TrainConfig))

"""How a model is evaluated unless a command says otherwise."""

from __future__ import annotations

from pathlib import Path

from yt8m_ray.artifacts.checkpoint_folders import load_config
from yt8m_ray.config.evaluate import EvaluateConfig, EvaluateDataConfig
from yt8m_ray.inference.locate import is_bundle


def evaluation_config(model_path: Path) -> EvaluateConfig:
    """Returns how a checkpoint or a bundle is evaluated by default: as its training was validated."""
    if is_bundle(model_path):  # which has no config of a training
        return EvaluateConfig()
    config = load_config(model_path)
    read = config.data
    data = EvaluateDataConfig(test=read.test, verify_checksums=read.verify_checksums, on_corrupt=read.on_corrupt)
    return EvaluateConfig(data=data, loss=config.loss)

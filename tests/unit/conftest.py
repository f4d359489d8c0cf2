"""Tiny trained-looking models on disk, for everything that begins with a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SaveCheckpoint = Callable[..., Path]


@pytest.fixture
def save_tiny_checkpoint(tmp_path: Path) -> SaveCheckpoint:
    """Returns a function that saves a model with random weights and returns the checkpoint's folder.

    Its keyword arguments are sections of the config (`data`, `model`); features have 8 and 4 values, classes are 30.
    """
    from yt8m_ray.checkpoint import save_checkpoint
    from yt8m_ray.config.train import TrainConfig
    from yt8m_ray.models import build_model

    empty_position = {"position.shards": torch.empty(0, dtype=torch.int64)}

    def save(
        name: str = "checkpoint", *, seed: int = 0, state: dict[str, torch.Tensor] | None = None, **sections: Any
    ) -> Path:
        data = {"features": {"rgb": 8, "audio": 4}, "num_classes": 30, "max_frames": 6, **sections.pop("data", {})}
        config = TrainConfig.model_validate(
            {"run": {"name": "tiny"}, "data": data, "model": {"name": "logistic"}, **sections}
        )
        torch.manual_seed(seed)
        model = build_model(
            config.model, feature_sizes=list(data["features"].values()), num_classes=data["num_classes"]
        )
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        folder = tmp_path / name
        folder.mkdir()
        save_checkpoint(folder, config=config, model=model, state=state or empty_position, facts={})
        return folder

    return save

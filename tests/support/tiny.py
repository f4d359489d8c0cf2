"""Checkpoints and bundles of models so small that a test can make its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.support.batch import make_batch
from yt8m_ray.artifacts.checkpoint import save_checkpoint
from yt8m_ray.config.export import ExportConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.features import VideoRow
from yt8m_ray.inference.bundle.golden_answers import make_inputs
from yt8m_ray.inference.ensemble.members import Member, QualityMeter, assemble, load_members
from yt8m_ray.models import build_model
from yt8m_ray.models.ensemble import Ensemble


def save_checkpoint_of(folder: Path, *, seed: int = 0, state: dict[str, Any] | None = None, **sections: Any) -> Path:
    """Saves a model with random weights into a new folder, which it returns; `sections` are those of its config."""
    data = {"features": {"rgb": 8, "audio": 4}, "num_classes": 30, "max_frames": 6, **sections.pop("data", {})}
    config = TrainConfig.model_validate(
        {"run": {"name": "tiny"}, "data": data, "model": {"name": "logistic"}, **sections}
    )
    torch.manual_seed(seed)
    model = build_model(config.model, feature_sizes=list(data["features"].values()), num_classes=data["num_classes"])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    folder.mkdir()
    average = None
    if config.ema.is_on:
        average = copy.deepcopy(model)
        average.load_state_dict({name: -tensor for name, tensor in model.state_dict().items()})
    state = state or {"position.shards": torch.empty(0, dtype=torch.int64)}
    save_checkpoint(folder, config=config, model=model, state=state, facts={}, average=average)
    return folder


def ensembles(config: ExportConfig, members: Sequence[Member]) -> tuple[Ensemble, Ensemble]:
    """Returns the ensemble of the members as trained and as stored."""
    before = Ensemble([member.model for member in members], config.weights())
    return before.eval(), Ensemble([member.stored.restore() for member in members], config.weights()).eval()


def write_bundle_of(
    output: Path,
    *,
    export: dict[str, Any] | None = None,
    transforms: tuple[str | None, str | None] = (None, None),
    **sections: Any,
) -> Path:
    """Writes a bundle of two such models, 3 to 1, beside their checkpoints; GAP is measured on 8 made-up videos."""
    members = []
    for seed, weight, transform in zip((1, 2), (3, 1), transforms, strict=True):
        folder = save_checkpoint_of(Path(f"{output}-{seed}"), seed=seed, **sections)
        members.append({"checkpoint": str(folder), "weight": weight, "transform": transform})
    tree = {
        "members": members,
        "transform": {"name": "int8", "min_elements": 100},
        "output": str(output),
    }
    config = ExportConfig.model_validate({**tree, **(export or {})})
    members = load_members(config)
    data = members[0].config.data
    videos = make_inputs(data.spec, 8)
    parts = np.split(videos.frames, np.cumsum(videos.num_frames)[:-1])
    rows = [VideoRow(f"v{index}", part, np.array([index, 20], np.int32)) for index, part in enumerate(parts)]
    meters = [QualityMeter(len(members)), QualityMeter(len(members))]
    for meter, ensemble in zip(meters, ensembles(config, members), strict=True):
        meter.update(ensemble, make_batch(rows, data.spec, normalize=data.normalize))
    return assemble(config, members, before=meters[0], after=meters[1], split=["validate.tfrecord"])[0]

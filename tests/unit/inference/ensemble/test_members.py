"""What a member of an ensemble costs."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from yt8m_ray.config.export import ExportConfig
from yt8m_ray.inference.ensemble.members import load_members


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ({"name": "none"}, 30 * 12 * 4 + 30 * 4),
        ({"name": "int8", "min_elements": 100}, 30 * 12 + 30 * 4 + 30 * 4),
    ],
)
def test_a_members_bytes_are_those_of_its_tensors_as_they_are_stored(
    tmp_path: Path, save_tiny_checkpoint: Callable[..., Path], transform: dict[str, Any], expected: int
) -> None:
    config = ExportConfig.model_validate(
        {
            "members": [{"checkpoint": str(save_tiny_checkpoint())}],
            "transform": transform,
            "output": str(tmp_path / "bundle"),
        }
    )

    (member,) = load_members(config)

    assert member.stored.num_bytes == expected
    save_file(member.stored.tensors, tmp_path / "file.safetensors")
    header = int.from_bytes((tmp_path / "file.safetensors").read_bytes()[:8], "little")
    assert (tmp_path / "file.safetensors").stat().st_size == 8 + header + expected


def test_a_stored_model_is_the_same_in_another_process(
    tmp_path: Path, save_tiny_checkpoint: Callable[..., Path]
) -> None:
    path = str(save_tiny_checkpoint())
    members = [{"checkpoint": path, "transform": name} for name in ("int8", "bfloat16", "none")]
    config = ExportConfig.model_validate(
        {"members": members, "transform": {"min_elements": 100}, "output": str(tmp_path / "bundle")}
    )

    for member in load_members(config):
        found = pickle.loads(pickle.dumps(member.stored))

        assert found.num_bytes == member.stored.num_bytes
        assert found.tensors.keys() == member.stored.tensors.keys()
        for name, tensor in member.stored.tensors.items():
            assert found.tensors[name].dtype == tensor.dtype
            assert torch.equal(found.tensors[name], tensor)
        frames, num_frames = torch.ones(1, 2, 12), torch.tensor([2])
        assert torch.equal(found.restore()(frames, num_frames), member.stored.restore()(frames, num_frames))

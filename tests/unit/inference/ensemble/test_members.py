"""What a member of an ensemble costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from yt8m_ray.config.export import ExportConfig
from yt8m_ray.inference.ensemble.members import load_members, member_bytes


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

    assert member_bytes(member) == expected
    save_file(member.stored, tmp_path / "file.safetensors")
    header = int.from_bytes((tmp_path / "file.safetensors").read_bytes()[:8], "little")
    assert (tmp_path / "file.safetensors").stat().st_size == 8 + header + expected

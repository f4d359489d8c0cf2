"""The names, types and shapes in the head of a safetensors file."""

from __future__ import annotations

# Nothing here imports torch, so that `yt8m describe` starts at once.
import math
import re
from dataclasses import dataclass
from pathlib import Path

import safetensors

from yt8m_ray.artifacts.folder_manifest import CheckpointError
from yt8m_ray.local_files import check_regular


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as a safetensors file has it; `dtype` is the format's own name, `I8` or `F32`."""

    name: str
    dtype: str
    shape: list[int]

    @property
    def num_bytes(self) -> int:
        """Size of its values."""
        # The format's names of types end in their bits, but for BOOL, which is a byte.
        bits = re.search(r"\d+", self.dtype)
        return math.prod(self.shape) * (int(bits[0]) if bits else 8) // 8


def read_tensor_entries(path: Path) -> list[TensorEntry]:
    """Returns the tensors of a safetensors file, by name; CheckpointError where its head or size is wrong."""
    try:
        check_regular(path)
        with safetensors.safe_open(path, framework="numpy") as file:
            # A slice knows its type and shape; its values are read only when it is indexed.
            slices = {name: file.get_slice(name) for name in sorted(file.keys())}
            return [TensorEntry(name, part.get_dtype(), part.get_shape()) for name, part in slices.items()]
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from None

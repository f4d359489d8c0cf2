"""How shards are read; without the reader, whose loops take a second to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from yt8m_ray.data.format.features import LabelPolicy

# What a bad record does: stops everything with its place, or is left out and counted.
OnCorruptPolicy = Literal["fail", "skip"]
# Frames of a block: what Ray does for a block costs less than reading it only where it is as large as this.
BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ReadOptions:
    """How shards are read."""

    verify_checksums: bool = True  # of every payload; those of the lengths are compared always
    labels: LabelPolicy = "optional"  # a video without required ones is a `Rejection`, whatever `on_corrupt` says
    on_corrupt: OnCorruptPolicy = "fail"
    block_bytes: int = BLOCK_BYTES

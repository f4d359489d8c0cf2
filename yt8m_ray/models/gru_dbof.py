"""You8M's hybrid of a bidirectional GRU and a deep bag of frames (5th place of 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pydantic
import torch

from yt8m_ray.models.base import MODELS, FrameModel
from yt8m_ray.models.dbof import Activation, BagFields, DBoF
from yt8m_ray.models.gru import BidirectionalGRU
from yt8m_ray.models.layers import mask_frames


class GRUDBoFConfig(BagFields):
    """You8M's GRU_DBoF_hybrid; `sampling` chooses the bag's frames, 30 random ones as published, the GRU reads all."""

    name: Literal["gru_dbof"] = "gru_dbof"
    cell_dim: int = pydantic.Field(default=1024, ge=2, multiple_of=2)
    """Of the GRU over both directions; each of them has half as many."""
    activation: Activation = "relu6"


@MODELS.register("gru_dbof", GRUDBoFConfig)
class GRUDBoFModel(FrameModel):
    """The last state of a bidirectional GRU beside the hidden units of a deep bag of frames, and a head."""

    def __init__(self, config: GRUDBoFConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(config, feature_sizes=feature_sizes, num_classes=num_classes)
        self.gru = BidirectionalGRU(self.frame_dim, config.cell_dim)
        self.bag = DBoF(self.frame_dim, config)
        self.head = self.build_head(config, config.cell_dim + config.hidden_dim)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        real_frames, _ = mask_frames(frames, num_frames)
        sampled, _, mask = self.sample(frames, num_frames)
        return torch.cat([self.gru(real_frames, num_frames), self.bag(sampled, mask)], dim=1)

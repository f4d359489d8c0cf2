"""The hierarchical LSTM of Efficient Video Classification, teacher and student (Bhardwaj et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pydantic
import torch
from torch.nn import functional as F

from yt8m_ray.models.base import MODELS, FrameModel
from yt8m_ray.models.lstm import StackedLSTMFields
from yt8m_ray.models.recurrent import LSTM, full_state


class HierarchicalLSTMConfig(StackedLSTMFields):
    """HierarchicalLstmModel; the defaults are the teacher, and `every: 10, num_blocks: 5` is its student."""

    name: Literal["hierarchical_lstm"] = "hierarchical_lstm"
    num_blocks: int = pydantic.Field(default=20, ge=1, le=10_000)
    """Blocks of a clip of `max_frames` frames; a longer clip has more of the same length."""
    every: int = pydantic.Field(default=1, ge=1)
    """The frames 0, every, 2 * every, ... are read."""
    max_frames: int = pydantic.Field(default=300, ge=1)

    @property
    def block_len(self) -> int:
        """Frames of a block that are read."""
        num_read = -(-self.max_frames // self.every)
        return -(-num_read // self.num_blocks)


@MODELS.register("hierarchical_lstm", HierarchicalLSTMConfig)
class HierarchicalLSTMModel(FrameModel):
    """An LSTM reads each block of frames from the zero state, another the blocks' full states; a head its full state.

    Shape letters: B clips, T frames, D values of a frame, N blocks, L frames of a block.
    """

    def __init__(self, config: HierarchicalLSTMConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(config, feature_sizes=feature_sizes, num_classes=num_classes)
        self.every, self.block_len = config.every, config.block_len
        state_dim = 2 * config.num_layers * config.cell_dim
        self.frame_lstm = LSTM(self.frame_dim, config.cell_dim, num_layers=config.num_layers)
        self.block_lstm = LSTM(state_dim, config.cell_dim, num_layers=config.num_layers)
        self.head = self.build_head(config, state_dim)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        frames, num_frames, _ = self.sample(frames, num_frames)
        num_read = -(-num_frames // self.every)
        frames = frames[:, :: self.every]
        num_clips, max_read = frames.shape[:2]
        num_blocks = -(-max_read // self.block_len)
        frames = F.pad(frames, (0, 0, 0, num_blocks * self.block_len - max_read))
        blocks = frames.reshape(num_clips * num_blocks, self.block_len, self.frame_dim)
        firsts = self.block_len * torch.arange(num_blocks, device=frames.device)
        lengths = (num_read.unsqueeze(1) - firsts).clamp(min=0, max=self.block_len)
        _, block_state = self.frame_lstm(blocks, lengths.flatten())
        codes = full_state(block_state).unflatten(0, (num_clips, num_blocks))
        _, state = self.block_lstm(codes, -(-num_read // self.block_len))
        return full_state(state)

"""LSTMs over frames: the starter code's, You8M's pair, the 2018 winner's bidirectional one, and a hierarchical one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pydantic
import torch
from torch.nn import functional as F

from yt8m_ray.models.base import MODELS, FrameModel, FrameModelFields
from yt8m_ray.models.recurrent import LSTM, full_state, shuffle_frames


class StackedLSTMFields(FrameModelFields):
    """The layers of an LSTM, and the units of each."""

    num_layers: int = pydantic.Field(default=2, ge=1, le=100)
    cell_dim: int = pydantic.Field(default=1024, ge=1)


class LSTMConfig(StackedLSTMFields):
    """The starter code's LstmModel."""

    name: Literal["lstm"] = "lstm"


@MODELS.register("lstm", LSTMConfig)
class LSTMModel(FrameModel):
    """Stacked LSTMs; the head classifies the top layer's output h at the last frame."""

    def __init__(self, config: LSTMConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(config, feature_sizes=feature_sizes, num_classes=num_classes)
        self.lstm = LSTM(self.frame_dim, config.cell_dim, num_layers=config.num_layers)
        self.head = self.build_head(config, config.cell_dim)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        frames, num_frames, _ = self.sample(frames, num_frames)
        _, state = self.lstm(frames, num_frames)
        h: torch.Tensor = state[-1][1]
        return h


class LSTMPairConfig(StackedLSTMFields):
    """You8M's LstmModelPair; both LSTMs have the same size."""

    name: Literal["lstm_pair"] = "lstm_pair"


@MODELS.register("lstm_pair", LSTMPairConfig)
class LSTMPairModel(FrameModel):
    """A stack of LSTMs for the frames 0, 2, 4, ..., another for the rest; the mean of their full states, and a head."""

    def __init__(self, config: LSTMPairConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(config, feature_sizes=feature_sizes, num_classes=num_classes)
        self.even = LSTM(self.frame_dim, config.cell_dim, num_layers=config.num_layers)
        self.odd = LSTM(self.frame_dim, config.cell_dim, num_layers=config.num_layers)
        self.head = self.build_head(config, 2 * config.num_layers * config.cell_dim)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        frames, num_frames, _ = self.sample(frames, num_frames)
        _, even_state = self.even(frames[:, ::2], (num_frames + 1) // 2)
        _, odd_state = self.odd(frames[:, 1::2], num_frames // 2)
        return (full_state(even_state) + full_state(odd_state)) / 2


class BidirectionalLSTMConfig(FrameModelFields):
    """Lstmbidirect of the 2018 winner, and of You8M with 1,200 cells."""

    name: Literal["bidirectional_lstm"] = "bidirectional_lstm"
    cell_dim: int = pydantic.Field(default=1024, ge=2, multiple_of=2)
    """Units of the second layer; each direction of the first has half of them."""
    frame_shuffle: bool = False
    """Whether training sees a clip's frames in random order; the published code evaluates so, too."""


@MODELS.register("bidirectional_lstm", BidirectionalLSTMConfig)
class BidirectionalLSTMModel(FrameModel):
    """A bidirectional LSTM and one on top of it; the head classifies the last cell state c, not the output."""

    def __init__(self, config: BidirectionalLSTMConfig, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(config, feature_sizes=feature_sizes, num_classes=num_classes)
        self.frame_shuffle = config.frame_shuffle
        self.both_directions = LSTM(self.frame_dim, config.cell_dim // 2, bidirectional=True)
        self.lstm = LSTM(config.cell_dim, config.cell_dim)
        self.head = self.build_head(config, config.cell_dim)

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        frames, num_frames, _ = self.sample(frames, num_frames)
        if self.frame_shuffle and self.training:
            frames = shuffle_frames(frames, num_frames)
        outputs, _ = self.both_directions(frames, num_frames)
        _, state = self.lstm(outputs, num_frames)
        c: torch.Tensor = state[-1][0]
        return c


class HierarchicalLSTMConfig(StackedLSTMFields):
    """The teacher of Efficient Video Classification (Bhardwaj et al. 2019); `every: 10, num_blocks: 5` its student."""

    name: Literal["hierarchical_lstm"] = "hierarchical_lstm"
    num_blocks: int = pydantic.Field(default=20, ge=1, le=10_000)
    """Blocks of a clip of `max_frames` frames; a longer clip has more of the same length."""
    every: int = pydantic.Field(default=1, ge=1)
    """The frames 0, every, 2 * every, ... are read."""
    max_frames: int = pydantic.Field(default=300, ge=1)

    @property
    def block_len(self) -> int:
        """Frames of a block that are read."""
        # -(-a // b) rounds up.
        num_read = -(-self.max_frames // self.every)
        return -(-num_read // self.num_blocks)


@MODELS.register("hierarchical_lstm", HierarchicalLSTMConfig)
class HierarchicalLSTMModel(FrameModel):
    """An LSTM reads each block of frames from the zero state, another the blocks' states; a head its full state."""

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
        # The last block is filled up with padding, and every block is a clip of its own.
        num_blocks = -(-max_read // self.block_len)
        frames = F.pad(frames, (0, 0, 0, num_blocks * self.block_len - max_read))
        blocks = frames.reshape(num_clips * num_blocks, self.block_len, self.frame_dim)
        firsts = self.block_len * torch.arange(num_blocks, device=frames.device)
        lengths = (num_read.unsqueeze(1) - firsts).clamp(min=0, max=self.block_len)
        _, block_state = self.frame_lstm(blocks, lengths.flatten())
        codes = full_state(block_state).unflatten(0, (num_clips, num_blocks))
        _, state = self.block_lstm(codes, -(-num_read // self.block_len))
        return full_state(state)

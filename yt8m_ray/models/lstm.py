"""LSTMs over frames: the starter code's, You8M's pair, the 2018 winner's bidirectional one, and a hierarchical one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from yt8m_ray.components import MODELS
from yt8m_ray.components.models import BidirectionalLSTMConfig, HierarchicalLSTMConfig, LSTMConfig, LSTMPairConfig
from yt8m_ray.models.base import FrameModel
from yt8m_ray.models.recurrent import LSTM, full_state, shuffle_frames


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

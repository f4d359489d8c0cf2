"""Frame sampling: which frames of a clip a model reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from yt8m_ray.components import SAMPLERS
from yt8m_ray.components.sampling import (
    AllFramesConfig,
    FrameSequenceConfig,
    RandomFramesConfig,
    SampleAllConfig,
    TrimmedFramesConfig,
    UniformFramesConfig,
)


class Sampler(nn.Module):
    """A choice of frames: [B, T, D] to [B, S, D]; a clip without frames stays without.

    Training may draw, from torch's generator; eval mode is a function of the clip alone, so that evaluation repeats.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the sampled frames and how many of them are real, the first ones."""
        raise NotImplementedError


@SAMPLERS.register("all", AllFramesConfig)
class AllFrames(Sampler):
    """Every frame, once, in order."""

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return frames, num_frames


@SAMPLERS.register("random", RandomFramesConfig)
class RandomFrames(Sampler):
    """`num_frames` frames drawn with replacement (SampleRandomFrames); in eval mode as many, evenly spaced."""

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        clip_lengths, num_taken = num_frames.unsqueeze(1), self.config.num_frames
        if self.training:
            drawn = torch.rand(num_frames.shape[0], num_taken, device=frames.device)
            indices = (drawn * clip_lengths).long()
        else:
            middles = 2 * torch.arange(num_taken, device=frames.device) + 1
            indices = (middles * clip_lengths) // (2 * num_taken)
        return _take(frames, num_frames, indices)


@SAMPLERS.register("sequence", FrameSequenceConfig)
class FrameSequence(Sampler):
    """`num_frames` consecutive frames from a random start (SampleRandomSequence), in eval mode the clip's middle."""

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # A shorter clip is taken whole, and its last frame repeated, as published.
        last_starts = (num_frames - self.config.num_frames).clamp(min=0).unsqueeze(1)
        if self.training:
            drawn = torch.rand(num_frames.shape[0], 1, device=frames.device)
            starts = torch.minimum((drawn * (last_starts + 1)).long(), last_starts)
        else:
            starts = last_starts // 2
        return _take(frames, num_frames, starts + torch.arange(self.config.num_frames, device=frames.device))


@SAMPLERS.register("uniform", UniformFramesConfig)
class UniformFrames(Sampler):
    """The frames 0, every, 2 * every, ..."""

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return frames[:, :: self.config.every], (num_frames + self.config.every - 1) // self.config.every


@SAMPLERS.register("sample_all", SampleAllConfig)
class SampleAll(Sampler):
    """Every frame once, in order, at most `num_frames`; in training, random frames fill the slots left over."""

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # The 2018 winner fills at inference too. Pooling that weighs frames alike gives the same in expectation with
        # and without the filler.
        if not self.training:
            return frames[:, : self.config.num_frames], num_frames.clamp(max=self.config.num_frames)
        clip_lengths = num_frames.unsqueeze(1)
        slots = torch.arange(self.config.num_frames, device=frames.device)
        filler = (torch.rand(num_frames.shape[0], self.config.num_frames, device=frames.device) * clip_lengths).long()
        return _take(frames, num_frames, torch.where(slots < clip_lengths, slots, filler))


@SAMPLERS.register("trimmed", TrimmedFramesConfig)
class TrimmedFrames(Sampler):
    """A clip without its beginning and its end; where that is too long, one frame of each of `num_frames` strata.

    In training a stratum's frame is drawn, in eval mode it is the middle one: distinct frames in their order. A clip
    too short to be trimmed is taken whole.
    """

    # The 7th place of 2019 cuts the batch's padding in place of a clip's end, and draws one set of frames for a whole
    # batch, with replacement, in evaluation too.

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.config
        is_trimmed = num_frames > config.start + config.end
        kept = torch.where(is_trimmed, num_frames - config.start - config.end, num_frames)
        slots = torch.arange(config.num_frames, device=frames.device)
        # Of strata that are not whole frames long, the first frames are: no frame is in two of them.
        firsts = slots * kept.unsqueeze(1) // config.num_frames
        sizes = (slots + 1) * kept.unsqueeze(1) // config.num_frames - firsts
        if self.training:
            drawn = torch.rand(num_frames.shape[0], config.num_frames, device=frames.device)
            offsets = torch.minimum((drawn * sizes).long(), sizes - 1)
        else:
            offsets = sizes // 2
        indices = torch.where(kept.unsqueeze(1) > config.num_frames, firsts + offsets, slots)
        indices = indices + torch.where(is_trimmed, config.start, 0).unsqueeze(1)
        taken = _gather(frames, num_frames, indices[:, : frames.shape[1]])
        return taken, kept.clamp(max=config.num_frames)


def _take(frames: torch.Tensor, num_frames: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the frames at `indices` [B, S], kept inside each clip, and S for every clip that has a frame."""
    if frames.shape[1] == 0:
        return frames, num_frames
    return _gather(frames, num_frames, indices), torch.where(num_frames > 0, indices.shape[1], 0)


def _gather(frames: torch.Tensor, num_frames: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Returns the frames at `indices` [B, S], kept inside each clip."""
    indices = torch.minimum(indices, num_frames.unsqueeze(1) - 1).clamp(min=0)
    return frames.gather(1, indices.unsqueeze(2).expand(-1, -1, frames.shape[2]))

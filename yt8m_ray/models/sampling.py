"""Frame sampling: which frames of a clip a model looks at.

Lives here: the samplers, their configs and the registry `SAMPLERS`. In training a sampler may draw (from torch's
generator); in eval mode every sampler is a function of the clip alone, so that evaluation repeats itself.
"""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
import torch
from torch import nn

from yt8m_ray.registry import ComponentConfig, Registry


class Sampler(nn.Module):
    """A choice of frames: [B, T, D] to [B, S, D]; a clip without frames stays without."""

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the sampled frames and how many of them are real, the first ones."""
        raise NotImplementedError


SAMPLERS: Registry[Sampler] = Registry("sampling")

SamplingField = Annotated[pydantic.SerializeAsAny[ComponentConfig], pydantic.BeforeValidator(SAMPLERS.parse)]
"""The type of a config field that holds any registered sampling."""


class AllFramesConfig(ComponentConfig):
    """Every frame, once, in order."""

    name: Literal["all"] = "all"


@SAMPLERS.register("all", AllFramesConfig)
class AllFrames(Sampler):
    """Every frame, once, in order."""

    def __init__(self, config: AllFramesConfig) -> None:
        super().__init__()

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return frames, num_frames


class RandomFramesConfig(ComponentConfig):
    """`num_frames` frames, drawn independently with replacement."""

    name: Literal["random"] = "random"
    num_frames: int = pydantic.Field(default=30, ge=1)


@SAMPLERS.register("random", RandomFramesConfig)
class RandomFrames(Sampler):
    """`num_frames` frames drawn with replacement (SampleRandomFrames); in eval mode as many, evenly spaced."""

    def __init__(self, config: RandomFramesConfig) -> None:
        super().__init__()
        self.num_frames = config.num_frames

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        clip_lengths = num_frames.unsqueeze(1)
        if self.training:
            drawn = torch.rand(num_frames.shape[0], self.num_frames, device=frames.device)
            indices = (drawn * clip_lengths).long()
        else:
            middles = 2 * torch.arange(self.num_frames, device=frames.device) + 1
            indices = (middles * clip_lengths) // (2 * self.num_frames)
        return _take(frames, num_frames, indices)


class FrameSequenceConfig(ComponentConfig):
    """`num_frames` consecutive frames."""

    name: Literal["sequence"] = "sequence"
    num_frames: int = pydantic.Field(default=30, ge=1)


@SAMPLERS.register("sequence", FrameSequenceConfig)
class FrameSequence(Sampler):
    """`num_frames` consecutive frames from a random start (SampleRandomSequence); in eval mode from the clip's middle.

    A shorter clip is taken whole, and its last frame repeated, as published.
    """

    def __init__(self, config: FrameSequenceConfig) -> None:
        super().__init__()
        self.num_frames = config.num_frames

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        last_starts = (num_frames - self.num_frames).clamp(min=0).unsqueeze(1)
        if self.training:
            drawn = torch.rand(num_frames.shape[0], 1, device=frames.device)
            starts = torch.minimum((drawn * (last_starts + 1)).long(), last_starts)
        else:
            starts = last_starts // 2
        return _take(frames, num_frames, starts + torch.arange(self.num_frames, device=frames.device))


class UniformFramesConfig(ComponentConfig):
    """The first frame and every `every`-th one after it."""

    name: Literal["uniform"] = "uniform"
    every: int = pydantic.Field(default=2, ge=1)


@SAMPLERS.register("uniform", UniformFramesConfig)
class UniformFrames(Sampler):
    """The frames 0, every, 2 * every, ..."""

    def __init__(self, config: UniformFramesConfig) -> None:
        super().__init__()
        self.every = config.every

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return frames[:, :: self.every], (num_frames + self.every - 1) // self.every


def _take(frames: torch.Tensor, num_frames: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the frames at `indices` [B, S], kept inside each clip, and S for every clip that has a frame."""
    if frames.shape[1] == 0:
        return frames, num_frames
    indices = torch.minimum(indices, num_frames.unsqueeze(1) - 1).clamp(min=0)
    taken = frames.gather(1, indices.unsqueeze(2).expand(-1, -1, frames.shape[2]))
    return taken, torch.where(num_frames > 0, indices.shape[1], 0)

"""Random changes of training batches, on their device: crops in time, dropped frames, mixtures of two videos."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from yt8m_ray.config.data import AugmentationConfig
from yt8m_ray.schema import Batch


def augment(batch: Batch, config: AugmentationConfig) -> Batch:
    """Returns the batch after a random crop, dropped frames and MixUp, in this order; no given tensor is changed."""
    if config.min_crop < 1 or config.frame_dropout:
        batch = _select_frames(batch, min_crop=config.min_crop, dropout=config.frame_dropout)
    if config.mixup_alpha and len(batch) > 1:
        batch = _mix(batch, config.mixup_alpha)
    return batch


def _select_frames(batch: Batch, *, min_crop: float, dropout: float) -> Batch:
    frames, num_frames = batch.frames, batch.num_frames.unsqueeze(1)
    num_videos, longest = frames.shape[:2]
    times = torch.arange(longest, device=frames.device)
    share = min_crop + (1 - min_crop) * torch.rand(num_videos, 1, device=frames.device)
    lengths = torch.minimum((share * num_frames).ceil().long(), num_frames)
    room = num_frames - lengths
    starts = torch.minimum((torch.rand(num_videos, 1, device=frames.device) * (room + 1)).long(), room)
    is_inside = (times >= starts) & (times < starts + lengths)
    luck = torch.rand(num_videos, longest, device=frames.device).masked_fill(~is_inside, -1.0)
    # The luckiest frame stays in any case; in a clip of no frames there is none.
    is_kept = is_inside & ((luck >= dropout) | (luck == luck.amax(dim=1, keepdim=True)))
    # As in every batch the kept frames come first, and what follows them is exactly 0.
    order = torch.argsort(~is_kept, dim=1, stable=True)
    num_kept = is_kept.sum(dim=1)
    is_padding = times >= num_kept.unsqueeze(1)
    packed = frames.gather(1, order.unsqueeze(2).expand_as(frames)).masked_fill_(is_padding.unsqueeze(2), 0.0)
    return dataclasses.replace(batch, frames=packed, num_frames=num_kept)


def _mix(batch: Batch, alpha: float) -> Batch:
    """Returns each video mixed with another of the batch (arXiv:1710.09412), by a share of its own."""
    device = batch.frames.device
    concentration = torch.full((len(batch),), alpha, device=device)
    drawn = torch.distributions.Beta(concentration, concentration).sample()
    # At least one half, since a mixture keeps the id and the place of its first video.
    shares = torch.maximum(drawn, 1 - drawn)
    others = torch.randperm(len(batch), device=device)

    def mixed(values: torch.Tensor) -> torch.Tensor:
        share = shares.view(-1, *[1] * (values.ndim - 1))
        return share * values + (1 - share) * values[others]

    tensors = {name: getattr(batch, name) for name in ("frames", "labels", "soft_labels", "weights")}
    mixtures: dict[str, Any] = {name: mixed(values) for name, values in tensors.items() if values is not None}
    # The shorter clip of a pair is followed by frames of 0, as in every batch.
    num_frames = torch.maximum(batch.num_frames, batch.num_frames[others])
    return dataclasses.replace(batch, num_frames=num_frames, **mixtures)

"""A weighted ensemble, which is a model: evaluated, quantized, distilled from and served like one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn

from yt8m_ray.config.data import DataConfig
from yt8m_ray.data.vocabulary import Vocabulary
from yt8m_ray.models.base import Model
from yt8m_ray.models.layers import mixture_logits

WEIGHT_TOLERANCE = 1e-4
"""How far the sum of the weights may lie from 1 (the 2018 ensembles allowed the same)."""


class Ensemble(Model):
    """The arithmetic mean of the members' probabilities, weighted, returned as logits.

    A mixture of experts whose gates are constant, so it is computed from log p and log(1 - p) like one.

    Members share the batch, which was decoded, normalized and padded once, and run one after the other: torch divides
    every operation among the threads of the process already, and threads for members would have no other cores. Where
    a process has one thread, replicas and workers run side by side.

    Args:
        members: Models of the same inputs and classes, run one after the other.
        weights: One positive share a member; their sum is 1.
    """

    log_weights: torch.Tensor

    def __init__(self, members: Sequence[Model], weights: Sequence[float]) -> None:
        if not members or len(members) != len(weights):
            raise ValueError(f"ensemble: expected one weight a member, found {len(members)} and {len(weights)} weights")
        if min(weights) <= 0 or abs(sum(weights) - 1) > WEIGHT_TOLERANCE:
            raise ValueError(f"ensemble: weights must be positive with the sum 1, found {list(weights)}")
        shapes = {(member.feature_sizes, member.num_classes) for member in members}
        if len(shapes) > 1:
            raise ValueError(f"ensemble: members must have the same features and classes, found {sorted(shapes)}")
        super().__init__(feature_sizes=members[0].feature_sizes, num_classes=members[0].num_classes)
        self.members = nn.ModuleList(members)
        log_weights = torch.tensor([math.log(weight) for weight in weights])
        self.register_buffer("log_weights", log_weights, persistent=False)

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Returns logits [B, C] of the mean probability."""
        return self.combine([member(frames, num_frames) for member in self.members])

    def combine(self, member_logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns what `forward` returns, from the members' logits."""
        if len(member_logits) == 1:
            return member_logits[0]
        return mixture_logits(self.log_weights, torch.stack(list(member_logits), dim=-1))


def check_agreement(names: Sequence[str], data: Sequence[DataConfig]) -> None:
    """Checks that all members read the same input and answer for the same classes.

    Raises:
        ValueError: names the first member that differs from the first one, and in what.
    """
    for name, config in zip(names[1:], data[1:], strict=True):
        for key in ("features", "num_classes", "max_frames", "normalize"):
            expected, found = getattr(data[0], key), getattr(config, key)
            # Two dicts are equal in any order, but features are concatenated in theirs.
            if expected != found or (key == "features" and list(expected) != list(found)):
                raise ValueError(
                    f"{name}: data.{key} is {found}, but {names[0]} has {expected}; all members read one input"
                )


def check_vocabularies(names: Sequence[str], vocabularies: Sequence[Vocabulary]) -> None:
    """Checks that a class id means one class to all members, as far as their vocabularies tell.

    Raises:
        ValueError: names two members that differ, and the first class that they differ in.
    """
    for (name, one), (other_name, other) in itertools.combinations(zip(names, vocabularies, strict=True), 2):
        class_id = one.first_difference(other)
        if class_id is not None:
            raise ValueError(
                f"{other_name}: class {class_id} is {other.name(class_id)!r} in its data.vocabulary, but "
                f"{one.name(class_id)!r} in that of {name}; all members answer for one vocabulary"
            )

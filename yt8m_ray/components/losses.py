"""Settings of the losses. A name is built by `yt8m_ray.losses`."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from yt8m_ray.registry import ComponentConfig, LocalPath, Registry

LOSSES: Registry[Any] = Registry("loss", implementation="yt8m_ray.losses", entry_point_group="yt8m_ray.losses")


class BinaryConfig(ComponentConfig):
    """The fields of losses of independent classes."""

    label_smoothing: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """s in y (1 - s) + s / 2, arXiv:1512.00567 for two outcomes."""
    class_weights: LocalPath | None = None
    """A CSV file with a count for each class: the published vocabulary (`Index`, `TrainVideoCount`) or
    `class_histogram.csv` of `yt8m inspect`; null weighs all classes alike."""
    max_class_weight: float = pydantic.Field(default=10.0, ge=1)
    """The largest weight; see `yt8m_ray.losses.class_weights`."""

    @pydantic.model_validator(mode="after")
    def _check_use(self) -> BinaryConfig:
        if self.class_weights is None:
            self.check_unused("max_class_weight", why="there are no class_weights to bound")
        return self


@LOSSES.config
class CrossEntropyConfig(BinaryConfig):
    """The cross-entropy of independent classes."""

    name: Literal["cross_entropy"] = "cross_entropy"
    published_epsilon: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Added to the arguments of both logarithms, by published systems 1e-5, which bounds the loss of a class at 11.5
    and lets gradients of certain errors vanish; 0 is the exact cross-entropy."""


@LOSSES.config
class FocalConfig(BinaryConfig):
    """The focal loss (arXiv:1708.02002)."""

    name: Literal["focal"] = "focal"
    gamma: float = pydantic.Field(default=2.0, ge=0)
    """0 is the cross-entropy; 2 in the paper."""
    alpha: float | None = pydantic.Field(default=None, gt=0, lt=1)
    """Weight of positive labels, 1 - alpha of negative ones (0.25 in the paper); null weighs both 1."""


@LOSSES.config
class HingeConfig(ComponentConfig):
    """The published hinge loss; `margin` is b."""

    name: Literal["hinge"] = "hinge"
    margin: float = pydantic.Field(default=1.0, gt=0)


@LOSSES.config
class SoftmaxConfig(ComponentConfig):
    """The published softmax loss."""

    name: Literal["softmax"] = "softmax"


@LOSSES.config
class SampledConfig(ComponentConfig):
    """The loss of segments of the 7th place of 2019 (ceshine/yt8m-2019, SampledCrossEntropyLoss)."""

    name: Literal["sampled"] = "sampled"
    positive_weight: float = pydantic.Field(default=1.5, ge=0)
    """Of a rated label that is 1."""
    negative_weight: float = pydantic.Field(default=0.5, ge=0)
    """Of a rated label that is 0, as coded; the paper prints 1."""
    unrated_weight: float = pydantic.Field(default=0.5, ge=0)
    """Of the mean over unrated negatives."""

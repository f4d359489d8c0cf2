"""The contract of a model, and the registry that builds one from its config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from yt8m_ray.components import HEADS, MODELS, SAMPLERS
from yt8m_ray.components.models import FrameModelFields
from yt8m_ray.models.heads import Head
from yt8m_ray.models.layers import Regularized, mask_frames, set_batch_norm_updates
from yt8m_ray.registry import ComponentConfig

# `criterion(logits, labels)`, both [B, C], to the mean loss over the clips.
Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Model(nn.Module):
    """A classifier of clips: frames in, one logit a class out.

    A family writes `represent` and sets `head`; those with more than one classifier write `forward` and `loss`.
    `feature_sizes` are those of the features that a frame concatenates, in order; they add up to D.

    - Logits depend on a clip's real frames alone: not on the padding's values or length and, in eval mode, not on the
      other clips of the batch. Eval mode is deterministic.
    - A clip of one frame (a video-level record), a clip without frames and a batch without clips are legal. A batch
      without clips gives logits [0, C] and zero gradients.
    - Logits are finite for finite frames.
    """

    # Tests check these rules for each name in `MODELS`. A batch without clips is that of a worker without rows, which
    # takes part in the step.

    head: Head

    def __init__(self, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.feature_sizes = tuple(feature_sizes)
        self.num_classes = num_classes

    @property
    def frame_dim(self) -> int:
        """D."""
        return sum(self.feature_sizes)

    def forward(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Returns logits [B, C].

        Args:
            frames: float32 [B, T, D], dequantized and normalized; rows t >= num_frames are ignored.
            num_frames: int64 [B], each in 0..T.
        """
        logits: torch.Tensor = self.head(self.represent(frames, num_frames))
        return logits

    def represent(self, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Returns the input of the head [B, R]; arguments as those of `forward`."""
        raise NotImplementedError

    def loss(
        self, frames: torch.Tensor, num_frames: torch.Tensor, labels: torch.Tensor, criterion: Criterion
    ) -> torch.Tensor:
        """Returns the scalar that training minimizes: `criterion` of the logits, and further terms of an architecture.

        `labels` are float [B, C]; the first call of `criterion` is with the logits of `forward`.
        """
        return criterion(self(frames, num_frames).float(), labels)

    def regularization(self) -> torch.Tensor:
        """Returns the published l2 term, to add to the loss: l2 * 0.5 * sum(W^2) over the regularized weights."""
        terms = [module.regularization() for module in self.modules() if isinstance(module, Regularized)]
        return torch.stack(terms).sum() if terms else torch.zeros(())


class FrameModel(Model):
    """A model of a clip's sampled frames."""

    def __init__(self, config: FrameModelFields, *, feature_sizes: Sequence[int], num_classes: int) -> None:
        super().__init__(feature_sizes=feature_sizes, num_classes=num_classes)
        self.sampler = SAMPLERS.build(config.sampling)

    def build_head(self, config: FrameModelFields, input_dim: int) -> Head:
        """Returns the configured head for representations [B, input_dim]."""
        head: Head = HEADS.build(
            config.head,
            input_dim=input_dim,
            num_classes=self.num_classes,
            batch_norm_momentum=config.batch_norm_momentum,
        )
        return head

    def sample(self, frames: torch.Tensor, num_frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns the sampled frames [B, S, D] with padding zeroed, how many are real [B], and their mask [B, S]."""
        frames, num_frames = self.sampler(frames, num_frames)
        frames, mask = mask_frames(frames, num_frames)
        return frames, num_frames, mask


def build_model(
    config: Mapping[str, Any] | ComponentConfig, *, feature_sizes: Sequence[int], num_classes: int
) -> Model:
    """Returns a new model, in training mode, with the published initial weights; moving statistics warm up.

    Args:
        config: Such as `{"name": "moe", "num_mixtures": 4}`; the name is one of `MODELS.names()`.
        feature_sizes: Of the features that a frame concatenates, in order, such as (1024, 128).
        num_classes: Of the vocabulary.

    Raises:
        ValueError: the name is unknown, or a field is unknown or out of range.
    """
    if not feature_sizes or min(feature_sizes) < 1 or num_classes < 1:
        raise ValueError(
            f"a model needs feature sizes and a number of classes of at least 1, found feature_sizes "
            f"{tuple(feature_sizes)} and num_classes {num_classes}"
        )
    config = MODELS.parse(config)
    config.check_sizes(feature_sizes)
    model: Model = MODELS.build(config, feature_sizes=feature_sizes, num_classes=num_classes)
    set_batch_norm_updates(model, 0)
    return model


def build_empty_model(
    config: Mapping[str, Any] | ComponentConfig, *, feature_sizes: Sequence[int], num_classes: int
) -> Model | None:
    """Returns a model without storage (torch's device `meta`), or None for one of another package that needs storage.

    Raises:
        ValueError: as `build_model`, or a tensor would be larger than there can be.
    """
    config = MODELS.parse(config)
    try:
        with torch.device("meta"):
            return build_model(config, feature_sizes=feature_sizes, num_classes=num_classes)
    except (RuntimeError, TypeError, OverflowError) as error:
        # torch has several errors for a size beyond 64 bits.
        if "overflow" in str(error).lower():
            raise ValueError(f"{config.name}: a tensor would be too large: {str(error).splitlines()[0]}") from None
        if type(config).__module__.partition(".")[0] == __name__.partition(".")[0]:
            # Our models need no storage, so the error is a fault.
            raise
        return None


def build_model_for_weights(
    config: Mapping[str, Any] | ComponentConfig, *, feature_sizes: Sequence[int], num_classes: int
) -> Model:
    """Returns a model to which weights are assigned: without storage where possible."""
    sizes: dict[str, Any] = {"feature_sizes": feature_sizes, "num_classes": num_classes}
    model = build_empty_model(config, **sizes)
    return build_model(config, **sizes) if model is None else model

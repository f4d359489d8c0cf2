"""Settings of the classifiers that models end with. A name is built by `yt8m_ray.models.heads`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from yt8m_ray.registry import ComponentConfig, Registry

HEADS: Registry[Any] = Registry("head", implementation="yt8m_ray.models")

# Weight of the l2 term in the starter code.
L2 = 1e-8

# Probability gating before training: its batch norm centres the gate's logit at 0.
GATED_SHARE = 0.5

# The type of a config field that holds any registered head.
HeadField = Annotated[pydantic.SerializeAsAny[ComponentConfig], pydantic.BeforeValidator(HEADS.parse)]


class LogisticFields(ComponentConfig):
    """The fields of a logistic classifier, as a head or as a whole model."""

    l2: float = pydantic.Field(default=L2, ge=0)
    """Weight of the l2 term."""
    l2_on_biases: bool = False
    """Whether the biases are in the l2 term, as with NeXtVLAD's authors."""
    initial_probability: float | None = pydantic.Field(default=None, gt=0, lt=1)
    """Of every class before training; None is the published start of 0.5, which takes hundreds of steps to unlearn."""


@HEADS.config
class LogisticHeadConfig(LogisticFields):
    """The head `logistic`."""

    name: Literal["logistic"] = "logistic"


class MoEFields(ComponentConfig):
    """The fields of a mixture of experts, as a head or as a whole model."""

    num_mixtures: int = pydantic.Field(default=2, ge=1)
    """Experts a class, M; a dummy expert that predicts 0 joins them."""
    low_rank: int | None = pydantic.Field(default=None, ge=1)
    """Rank of the gates' weights; None is full rank."""
    prob_gating: Literal["none", "prob", "input"] = "none"
    """The input of a gate on the probabilities: none, the probabilities or the head's input."""
    prob_gating_remove_diagonal: bool = False
    """Whether a class's own probability is kept out of its gate."""
    l2: float = pydantic.Field(default=L2, ge=0)
    """Weight of the l2 term on gates and experts."""
    initial_probability: float | None = pydantic.Field(default=None, gt=0, lt=1)
    """Of every class before training, below the M / (M + 1) that the dummy leaves (half of it with probability gating);
    None is the published start, half of that bound."""

    @property
    def expert_share(self) -> float:
        """The factor of an expert's probability before training."""
        share = self.num_mixtures / (self.num_mixtures + 1)
        return share if self.prob_gating == "none" else share * GATED_SHARE

    @pydantic.model_validator(mode="after")
    def _check(self) -> MoEFields:
        if self.prob_gating_remove_diagonal and self.prob_gating != "prob":
            raise ValueError(
                f"prob_gating_remove_diagonal needs prob_gating: prob, found prob_gating: {self.prob_gating}"
            )
        if self.initial_probability is not None and self.initial_probability >= self.expert_share:
            raise ValueError(
                f"initial_probability must lie below {self.expert_share:.4g}, what untrained gates give the experts, "
                f"found {self.initial_probability}"
            )
        return self


@HEADS.config
class MoEHeadConfig(MoEFields):
    """The head `moe`."""

    name: Literal["moe"] = "moe"


@HEADS.config
class LogitMoEHeadConfig(ComponentConfig):
    """The head `logit_moe`; the defaults are those of the 7th place of 2019, but for its weight decay instead of l2."""

    name: Literal["logit_moe"] = "logit_moe"
    num_mixtures: int = pydantic.Field(default=4, ge=1)
    """Experts a class, M; a dummy expert whose logit is 0 joins them."""
    per_class: bool = False
    """Whether each class has gates of its own."""
    batch_norm: bool = True
    """Whether experts and gates batch-normalize the input, each apart; not with the 3rd place of 2019."""
    dropout: float = pydantic.Field(default=0.5, ge=0, lt=1)
    """Of the input, drawn for experts and gates apart."""
    l2: float = pydantic.Field(default=L2, ge=0)
    """Weight of the l2 term on gates and experts."""
    initial_probability: float | None = pydantic.Field(default=None, gt=0, lt=1)
    """Of every class before training; None is the published start of 0.5."""

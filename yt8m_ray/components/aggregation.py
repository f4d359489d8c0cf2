"""Settings of the models that aggregate frames by clusters: bags, VLAD, Fisher vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pydantic

from yt8m_ray.components.heads import HeadField, LogisticHeadConfig, LogitMoEHeadConfig
from yt8m_ray.components.models import (
    MODELS,
    TORCH_BATCH_NORM_MOMENTUM,
    FrameModelFields,
)
from yt8m_ray.components.sampling import (
    SamplingField,
    TrimmedFramesConfig,
)


def _check_groups(feature_dim: int, *, groups: int, expansion: int) -> None:
    if expansion * feature_dim % groups:
        raise ValueError(
            f"groups: {groups} groups need a widened feature that they divide, found expansion {expansion} * "
            f"{feature_dim} = {expansion * feature_dim}"
        )


class LateFusionFields(FrameModelFields):
    """The fields of every such model."""

    num_clusters: int = pydantic.Field(default=256, ge=2)
    """K of the first feature; the others have a published fraction of it."""
    use_relu: bool = False
    """Whether the hidden layer is relu6 of a batch norm; otherwise it is linear with a bias."""
    batch_norm: bool = True
    """Whether frames, clusters, hidden layer and gate are batch-normalized."""


class SoftDBoFFields(LateFusionFields):
    """The fields of both bags; the defaults are the winner's DBoF1 but for `use_relu`, its flag's default."""

    num_clusters: int = pydantic.Field(default=4096, ge=2)
    """K of the first feature; the others have K // 8, at least 2."""
    hidden_dim: int | None = pydantic.Field(default=1024, ge=0)
    """Null or 0 is no hidden layer (the flag `fc_dimred` off)."""
    use_relu: bool = True
    max_pool: bool = False
    """Whether the largest shares stand beside the sums; the gated bag of the first feature ignores it."""


@MODELS.config
class SoftDBoFConfig(SoftDBoFFields):
    """Soft bags for all features."""

    name: Literal["soft_dbof"] = "soft_dbof"


@MODELS.config
class GatedDBoFConfig(SoftDBoFFields):
    """A gated bag for the first feature, soft ones for the others."""

    name: Literal["gated_dbof"] = "gated_dbof"


class NetVLADFields(LateFusionFields):
    """The 2018 winner's NetVLADModelLF; the defaults are its largest model, but for its head's probability gating."""

    hidden_dim: int = pydantic.Field(default=1024, ge=1)
    """Outputs of the hidden layer."""
    gating: bool = True
    """Whether a context gate follows the hidden layer."""
    gating_remove_diagonal: bool = False
    """Whether a hidden unit is kept out of its own gate."""


@MODELS.config
class NetVLADConfig(NetVLADFields):
    """Residuals to learned centres."""

    name: Literal["netvlad"] = "netvlad"


@MODELS.config
class LightVLADConfig(NetVLADFields):
    """No centres: the flag `lightvlad` of the 2018 winner, NetRVLAD of the 2017 one."""

    name: Literal["light_vlad"] = "light_vlad"


@MODELS.config
class NetFVConfig(LateFusionFields):
    """The 2018 winner's NetFVModelLF; the defaults are its flags'."""

    name: Literal["netfv"] = "netfv"
    num_clusters: int = pydantic.Field(default=64, ge=2)
    hidden_dim: int = pydantic.Field(default=2048, ge=1)
    """Outputs of the hidden layer."""
    use_relu: bool = True
    """Whether the hidden layer is relu6 of a batch norm; otherwise it is linear with a bias."""
    gating: bool = False
    """Whether a context gate follows the hidden layer."""
    couple_weights: bool = True
    """Whether the centres are the assignment's weights times `coupling_factor`, or learned."""
    coupling_factor: float = 0.01


class NeXtVLADFields(FrameModelFields):
    """The fields of one NeXtVLAD, alone or as a branch of a mixture."""

    num_clusters: int = pydantic.Field(default=128, ge=2)
    """K of the first feature; the others have K // 2 clusters."""
    groups: int = pydantic.Field(default=8, ge=1)
    """G of the first feature; the others have G // 2 groups."""
    expansion: int = pydantic.Field(default=2, ge=1)
    """How many times a feature's frames are widened before they are cut into groups."""
    hidden_dim: int = pydantic.Field(default=2048, ge=1)
    dropout: float = pydantic.Field(default=0.5, ge=0, lt=1)
    """Of the descriptors."""
    gating_reduction: int = pydantic.Field(default=8, ge=1)
    """How much narrower than the hidden layer the middle of its gate is."""
    head: HeadField = LogisticHeadConfig(l2=1e-5, l2_on_biases=True)

    def groups_of(self, index: int) -> int:
        """Returns the groups of a feature: the first has twice as many as the others."""
        return self.groups if index == 0 else max(self.groups // 2, 1)

    def check_sizes(self, feature_sizes: Sequence[int]) -> None:
        for index, size in enumerate(feature_sizes):
            _check_groups(size, groups=self.groups_of(index), expansion=self.expansion)


@MODELS.config
class NeXtVLADConfig(NeXtVLADFields):
    """The authors' single model, with the defaults of its best row."""

    name: Literal["nextvlad"] = "nextvlad"


@MODELS.config
class MixNeXtVLADConfig(NeXtVLADFields):
    """The authors' mixture, with the defaults of its final run."""

    name: Literal["mix_nextvlad"] = "mix_nextvlad"
    num_clusters: int = pydantic.Field(default=112, ge=2)
    gating_reduction: int = pydantic.Field(default=16, ge=1)
    num_branches: int = pydantic.Field(default=3, ge=2, le=100)
    """NeXtVLADs in the mixture."""
    temperature: float = pydantic.Field(default=3.0, gt=0)
    """Divides the logits before branches are compared with the mixture."""
    kl_weight: float = pydantic.Field(default=9.0, ge=0)
    """Of that comparison in the loss; published is the square of the temperature."""


class SeventhPlaceFields(FrameModelFields):
    """The fields of both models."""

    hidden_dim: int = pydantic.Field(default=2048, ge=1)
    se_reduction: int | None = pydantic.Field(default=4, ge=1)
    """How much narrower than the hidden layer the middle of its gate is; null is no gate."""
    batch_norm_momentum: float = pydantic.Field(default=TORCH_BATCH_NORM_MOMENTUM, gt=0, le=1)
    sampling: SamplingField = TrimmedFramesConfig()
    head: HeadField = LogitMoEHeadConfig()


@MODELS.config
class GatedDBoF2019Config(SeventhPlaceFields):
    """The defaults are the run that was published as dbof-3."""

    name: Literal["gated_dbof_2019"] = "gated_dbof_2019"
    num_clusters: int = pydantic.Field(default=4096, ge=1)
    """Units that each frame is projected to."""
    dropout: float = pydantic.Field(default=0.5, ge=0, lt=1)
    """Of the pooled units."""
    frame_se_reduction: int | None = pydantic.Field(default=8, ge=1)
    """The same as `se_reduction`, for the gate on a frame's units."""


@MODELS.config
class NeXtVLAD2019Config(SeventhPlaceFields):
    """The defaults are the run that was published as nextvlad-2."""

    name: Literal["nextvlad_2019"] = "nextvlad_2019"
    num_clusters: int = pydantic.Field(default=64, ge=2)
    """K of the first feature; the others have K // 2 clusters."""
    groups: int = pydantic.Field(default=16, ge=1)
    """G of every feature."""
    expansion: int = pydantic.Field(default=2, ge=1)
    """How many times a feature's frames are widened before they are cut into groups."""
    cluster_bn: bool = True
    """Whether a batch norm of K channels, shared by groups, precedes the assignment, or a bias."""
    dropout: float = pydantic.Field(default=0.25, ge=0, lt=1)
    """Of whole clusters."""

    def check_sizes(self, feature_sizes: Sequence[int]) -> None:
        for size in feature_sizes:
            _check_groups(size, groups=self.groups, expansion=self.expansion)

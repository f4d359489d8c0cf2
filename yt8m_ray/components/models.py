"""Settings of models, but for those that aggregate frames by clusters. A name is built by `yt8m_ray.models`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pydantic

from yt8m_ray.components.heads import (
    L2,
    HeadField,
    LogisticFields,
    LogisticHeadConfig,
    MoEFields,
    MoEHeadConfig,
)
from yt8m_ray.components.sampling import AllFramesConfig, SamplingField
from yt8m_ray.registry import ComponentConfig, PositiveInt, Registry

MODELS: Registry[Any] = Registry("model", implementation="yt8m_ray.models", entry_point_group="yt8m_ray.models")


# Share of a batch in moving statistics: the default of slim.batch_norm, which no published TensorFlow system changes,
# and of torch.nn.BatchNorm1d, which the 2019 systems written in torch do not change.
BATCH_NORM_MOMENTUM = 0.001
TORCH_BATCH_NORM_MOMENTUM = 0.1


class FrameModelFields(ComponentConfig):
    """The fields of models of single frames."""

    batch_norm_momentum: float = pydantic.Field(default=BATCH_NORM_MOMENTUM, gt=0, le=1)
    """Share of a batch in the moving statistics, those of the head too."""
    sampling: SamplingField = AllFramesConfig()
    head: HeadField = MoEHeadConfig()


@MODELS.config
class LogisticConfig(LogisticFields):
    """The starter code's LogisticModel, for video-level records."""

    name: Literal["logistic"] = "logistic"


@MODELS.config
class FrameLogisticConfig(LogisticFields):
    """The starter code's FrameLevelLogisticModel, for frame-level records."""

    name: Literal["frame_logistic"] = "frame_logistic"


@MODELS.config
class MoEConfig(MoEFields):
    """The starter code's MoeModel, with the 2018 winner's extensions."""

    name: Literal["moe"] = "moe"
    batch_norm_momentum: float = pydantic.Field(default=BATCH_NORM_MOMENTUM, gt=0, le=1)


# `mean`, `std` (population) and `cube_root_moment` (cube root of the mean cube) have one value a dimension, `std_all`
# (over all frames and dimensions) one a feature, `num_frames` one.
Statistic = Literal["mean", "cube_root_moment", "std", "num_frames", "std_all"]


@MODELS.config
class MoNNConfig(ComponentConfig):
    """You8M's MoNN; the defaults are MoNN3Lw, and configs/train/ has the others."""

    name: Literal["monn"] = "monn"
    hidden_dims: tuple[PositiveInt, ...] = pydantic.Field(default=(18440, 2305, 9220), min_length=1, max_length=100)
    """Units of the experts' relu layers; published are MoNN2Lw (13830, 6915), MoNN3L (4096 three times), MoNN3Lw
    (18440, 2305, 9220) and MoNN4Ln (2048 four times)."""
    num_mixtures: int = pydantic.Field(default=3, ge=1)
    """Experts a class, M; a dummy expert that predicts 0 joins them."""
    statistics: tuple[Statistic, ...] = pydantic.Field(default=("mean", "std", "num_frames"), min_length=1)
    """The input, in order; You8M wrote them to shards."""
    l2: float = pydantic.Field(default=L2, ge=0)
    """Weight of the l2 term on all matrices."""


@MODELS.config
class DeepCombineChainConfig(ComponentConfig):
    """The runner-up's video-level chain; the defaults are its run."""

    name: Literal["deep_combine_chain"] = "deep_combine_chain"
    num_layers: int = pydantic.Field(default=8, ge=1, le=100)
    """Classifiers before the last one, L."""
    relu_dim: int = pydantic.Field(default=128, ge=1)
    """Units that a classifier's predictions are compressed to for the following ones."""
    support_weight: float = pydantic.Field(default=0.025, ge=0, le=1)
    """Share of the L classifiers in the loss; the last one has the rest."""
    head: HeadField = MoEHeadConfig()
    """Every classifier of the chain."""


Pooled = Literal["max", "average"]

Activation = Literal["sigmoid", "relu6"]


class BagFields(FrameModelFields):
    """The fields of a deep bag of frames."""

    num_clusters: int = pydantic.Field(default=8192, ge=1)
    """K, the units that every frame is projected to."""
    hidden_dim: int = pydantic.Field(default=1024, ge=1)
    """Units after the pooling."""
    pooling: Pooled = "max"
    """Over the frames, of each unit."""
    activation: Activation = "sigmoid"
    """Of the units before and after the pooling."""
    batch_norm: bool = True
    """Whether frames, clusters and hidden units are batch-normalized; else the latter two have biases."""


@MODELS.config
class DBoFConfig(BagFields):
    """The starter code's DbofModel with its defaults, but on all frames; other systems have relu6."""

    name: Literal["dbof"] = "dbof"


@MODELS.config
class CNNConfig(ComponentConfig):
    """You8M's CNN."""

    name: Literal["cnn"] = "cnn"
    num_channels: int = pydantic.Field(default=164, ge=1)
    """Of each of the eight convolutions; 164 makes the published 1312 in all."""
    head: HeadField = MoEHeadConfig()


@MODELS.config
class FrameAttentionConfig(FrameModelFields):
    """The 2018 winner's attention_frames_v0."""

    name: Literal["frame_attention"] = "frame_attention"
    attend_to_padding: bool = False
    """Whether every clip counts as `max_frames` frames, padded with zeros, as published; published weights need it, and
    `load_published` switches it on. Otherwise padding has no weight."""
    max_frames: int = pydantic.Field(default=300, ge=1)
    head: HeadField = LogisticHeadConfig()


class StackedLSTMFields(FrameModelFields):
    """The layers of an LSTM, and the units of each."""

    num_layers: int = pydantic.Field(default=2, ge=1, le=100)
    cell_dim: int = pydantic.Field(default=1024, ge=1)


@MODELS.config
class LSTMConfig(StackedLSTMFields):
    """The starter code's LstmModel."""

    name: Literal["lstm"] = "lstm"


@MODELS.config
class LSTMPairConfig(StackedLSTMFields):
    """You8M's LstmModelPair; both LSTMs have the same size."""

    name: Literal["lstm_pair"] = "lstm_pair"


@MODELS.config
class BidirectionalLSTMConfig(FrameModelFields):
    """Lstmbidirect of the 2018 winner, and of You8M with 1,200 cells."""

    name: Literal["bidirectional_lstm"] = "bidirectional_lstm"
    cell_dim: int = pydantic.Field(default=1024, ge=2, multiple_of=2)
    """Units of the second layer; each direction of the first has half of them."""
    frame_shuffle: bool = False
    """Whether training sees a clip's frames in random order; the published code evaluates so, too."""


@MODELS.config
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


@MODELS.config
class BidirectionalGRUConfig(FrameModelFields):
    """GRUbidirect of the 2018 winner, and of You8M with 1,250 cells."""

    name: Literal["bidirectional_gru"] = "bidirectional_gru"
    cell_dim: int = pydantic.Field(default=1024, ge=2, multiple_of=2)
    """Units of the second layer; each direction of the first has half of them."""
    gating: bool = False
    """Whether a context gate, with a bias, follows."""


@MODELS.config
class BranchedGRUConfig(FrameModelFields):
    """The 2018 winner's GRUbidirect_branchedBN."""

    name: Literal["branched_gru"] = "branched_gru"
    gating: bool = False
    """Whether a context gate, with a bias, follows; the published one cannot run."""

    def check_sizes(self, feature_sizes: Sequence[int]) -> None:
        if min(feature_sizes) < 2:
            raise ValueError(f"branched_gru needs features of at least 2 values, found sizes {tuple(feature_sizes)}")


@MODELS.config
class GRUDBoFConfig(BagFields):
    """You8M's GRU_DBoF_hybrid; `sampling` chooses the bag's frames, 30 random ones as published, the GRU reads all."""

    name: Literal["gru_dbof"] = "gru_dbof"
    cell_dim: int = pydantic.Field(default=1024, ge=2, multiple_of=2)
    """Of the GRU over both directions; each of them has half as many."""
    activation: Activation = "relu6"

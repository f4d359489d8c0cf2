"""What a configuration costs in use, measured before it is trained: bytes, arithmetic, time."""

from __future__ import annotations

from collections.abc import Collection

from yt8m_ray.config.quantization import TransformConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.config.tune import Cost
from yt8m_ray.inference.quantization.quantize import channel_axes, stored_bytes
from yt8m_ray.models import build_model, build_model_for_weights
from yt8m_ray.models.cost import clip_latency_ms, count_macs
from yt8m_ray.training.steps.model_checks import check_models


def measure_costs(config: TrainConfig, names: Collection[Cost]) -> dict[str, float]:
    """Returns the costs of the model that a config describes.

    Raises:
        ConfigError: the model cannot be built.
    """
    check_models(config)
    data = config.data
    model = build_model_for_weights(config.model, feature_sizes=data.feature_sizes, num_classes=data.num_classes)
    num_frames = 1 if config.data.spec.is_video_level else config.data.max_frames
    costs: dict[str, float] = {}
    if "int8_bytes" in names:
        # As the export transform `int8` stores the weights: their shapes alone give the size.
        transform = TransformConfig(name="int8")
        costs["int8_bytes"] = float(stored_bytes(model.state_dict(), channel_axes(model), transform))
    if "macs" in names:
        costs["macs"] = float(count_macs(model, num_frames=num_frames))
    if "latency_ms" in names:  # of a model with storage, and random weights
        timed = build_model(config.model, feature_sizes=data.feature_sizes, num_classes=data.num_classes)
        costs["latency_ms"] = clip_latency_ms(timed, num_frames=num_frames)
    return costs

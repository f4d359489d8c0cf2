"""Large-scale video classification on YouTube-8M with Ray: data, models, training, quantized ensembles and serving.

The names below are the library's public ones; each is imported when it is first used, so that `import yt8m_ray` costs
nothing and brings neither torch nor Ray. docs/python.md shows them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "yt8m_ray.api.models": (
        *("LoadedModel", "Prediction", "create_loss", "create_metric", "create_model", "list_losses", "list_metrics"),
        *("list_models", "load", "vocabulary"),
    ),
    "yt8m_ray.api.runs": ("evaluate", "export", "load_config", "load_search", "predict", "train", "tune"),
    "yt8m_ray.api.videos": ("VideoDataset", "ray_dataset", "read_videos"),
    "yt8m_ray.errors": ("ConfigError", "InputError", "YT8MError"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

if TYPE_CHECKING:
    from yt8m_ray.api.models import (
        LoadedModel,
        Prediction,
        create_loss,
        create_metric,
        create_model,
        list_losses,
        list_metrics,
        list_models,
        load,
        vocabulary,
    )
    from yt8m_ray.api.runs import evaluate, export, load_config, load_search, predict, train, tune
    from yt8m_ray.api.videos import VideoDataset, ray_dataset, read_videos
    from yt8m_ray.errors import ConfigError, InputError, YT8MError


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

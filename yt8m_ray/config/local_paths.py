"""The paths in a config, made absolute."""

from __future__ import annotations

import os
from typing import TypeVar

from yt8m_ray.config.document import flatten, override
from yt8m_ray.config.train import TrainConfig

_SQLITE = "sqlite:///"


_PATHS = (
    *("data.vocabulary", "data.manifest", "data.cache", "data.video_weights", "loss.class_weights"),
    *("distillation.labels", "distillation.teacher", "teacher.checkpoint", "train.init_from"),
)
"""Keys with a file or a folder; not every loss has its own."""


C = TypeVar("C", bound=TrainConfig)


def with_absolute_paths(config: C) -> C:
    """Returns the config with its local paths absolute: workers and later jobs run in other folders than this one."""

    def absolute(path: str) -> str:
        return path if "://" in path else os.path.abspath(path)

    changes: dict[str, object] = {"output": absolute(config.output)}
    for key in ("train", "validation", "test"):
        patterns = getattr(config.data, key)
        if patterns is not None:
            several = [absolute(pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns)]
            changes[f"data.{key}"] = several[0] if isinstance(patterns, str) else several
    tree = flatten(config)
    changes |= {key: absolute(str(tree[key])) for key in _PATHS if tree.get(key) is not None}
    uri = config.tracking.uri
    if uri is not None and uri.startswith(_SQLITE):
        changes["tracking.uri"] = _SQLITE + os.path.abspath(uri.removeprefix(_SQLITE))
    return override(config, changes)

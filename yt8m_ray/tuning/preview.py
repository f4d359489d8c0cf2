"""The first configurations that a search would try; without Ray, and without torch where no cost is limited."""

from __future__ import annotations

import tempfile
from pathlib import Path

from yt8m_ray.config.space import Params
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.tuning.study import SearchStudy


def preview(config: TuneConfig, num_samples: int) -> list[Params]:
    """Returns the first configurations that a search without results would train."""

    def measure(trial: TrainConfig) -> dict[str, float]:
        if not any(config.tune.limits.model_dump().values()):
            return {}
        from yt8m_ray.tuning.costs import measure_costs

        return measure_costs(trial, config.tune.costs)

    with tempfile.TemporaryDirectory(prefix="yt8m_tune_") as folder:
        study = SearchStudy(Path(folder), config, measure)
        suggestions = [study.next() for _ in range(num_samples)]
    return [one.params for one in suggestions if one is not None]

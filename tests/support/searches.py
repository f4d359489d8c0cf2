"""Searches of a tiny model that train nothing: their configs, and their studies in a folder."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from yt8m_ray.config.train import TrainConfig
from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.tuning.records import TrialStatus
from yt8m_ray.tuning.study import SearchStudy, Suggestion
from yt8m_ray.tuning.study_file import STUDY_FILE

SPACE = {"model.num_mixtures": {"integer": [1, 64]}, "optimizer.learning_rate": {"loguniform": [1e-4, 1.0]}}
FIFO = {"scheduler": {"name": "fifo"}}


def config_of(space: dict[str, Any] | None = None, *, searcher: str = "random", **tune: Any) -> TuneConfig:
    search = {"space": space or SPACE, "searcher": {"name": searcher}, **tune}
    if searcher in ("tpe", "gp"):
        search["searcher"] = {"name": searcher, "num_random": 1}
    return TuneConfig.model_validate(
        {
            "run": {"name": "s"},
            "data": {"features": {"rgb": 8}, "num_classes": 5, "max_frames": 4},
            "model": {"name": "moe"},
            "tune": search,
        }
    )


RANDOM = config_of()


def no_costs(_: TrainConfig) -> Mapping[str, float]:
    return {}


@functools.cache
def empty_storage() -> bytes:
    """Returns a file of Optuna's tables, which take it longer to make than anything else here."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / STUDY_FILE
        optuna.storages.RDBStorage(f"sqlite:///{path}").engine.dispose()
        return path.read_bytes()


def open_study(folder: Path, config: TuneConfig = RANDOM, measure: Any = no_costs) -> SearchStudy:
    if not folder.exists() or not any(folder.iterdir()):
        folder.mkdir(exist_ok=True)
        (folder / STUDY_FILE).write_bytes(empty_storage())
    return SearchStudy(folder, config, measure)


def started(study: SearchStudy) -> Suggestion:
    suggestion = study.next()
    assert suggestion is not None
    return suggestion


def score_of(params: Mapping[str, Any]) -> float:
    """Returns what a trial would have reached: any numbers of which some are better."""
    return 1 / (1 + abs(float(params["model.num_mixtures"]) - 20)) + float(params["optimizer.learning_rate"])


def trained(study: SearchStudy, score: float | None = None, status: TrialStatus = "completed") -> Suggestion:
    """Trains a trial of one epoch."""
    suggestion = started(study)
    study.report(suggestion.number, 1, {"gap": score_of(suggestion.params) if score is None else score})
    study.tell(suggestion.number, status)
    return suggestion


def optuna_study(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=f"sqlite:///{folder / STUDY_FILE}")


def macs_of(config: TrainConfig) -> dict[str, float]:
    return {"macs": float(config.model.num_mixtures), "int8_bytes": 7.0}  # type: ignore[attr-defined]

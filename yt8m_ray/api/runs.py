"""What the verbs run, from Python: a config in, the result as an object out.

A call connects to the Ray that the process is connected to, to that at RAY_ADDRESS, or to one that it starts and stops
again. Lines of progress go to the logger `yt8m_ray`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from yt8m_ray.cli.command import RAY_ENVIRONMENT, ray_cluster
from yt8m_ray.config.document import load_document as _load
from yt8m_ray.config.document import override
from yt8m_ray.config.evaluate import EvaluateConfig
from yt8m_ray.config.export import ExportConfig
from yt8m_ray.config.shipped import find_config
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.local_cluster import configure_environment, import_environment

# Called with the metrics of an interval, an epoch or a checkpoint: `train/...`, `validation/...`, `epoch`.
Callback = Callable[[Mapping[str, float]], None]


def load_config(config: str | Path, changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """Returns the train config of a YAML file, or of a shipped one by name, with dotted keys replaced.

    `load_config("netvlad", {"model.num_clusters": 64})`. ConfigError names the key that is wrong.
    """
    return override(_load(find_config(str(config), "train"), TrainConfig), changes or {})


def load_search(config: str | Path, changes: Mapping[str, Any] | None = None) -> TuneConfig:
    """Returns a search's config, as `load_config` does a run's."""
    return override(_load(find_config(str(config), "tune"), TuneConfig), changes or {})


def train(config: TrainConfig, *, callback: Callback | None = None) -> Any:
    """Trains, or continues, a run; returns a `FitResult`: checkpoint, metrics, run_path, mlflow_run_id.

    `callback` is called in this process. YT8MError, ValueError or OSError as `yt8m train` would print.
    """
    with _cluster():
        from yt8m_ray.training.driver.trainer import fit
        from yt8m_ray.training.run.hooks import RunHooks
        from yt8m_ray.training.run.inputs import check_records, splits_of

        class Hooks(RunHooks):
            def measured(self, metrics: Mapping[str, float]) -> None:
                if callback is not None:
                    callback(metrics)

        check_records(config, splits_of(config.data))
        return fit(config, Hooks())


def tune(config: TuneConfig) -> Any:
    """Runs, or continues, a search; returns a `SearchResult`: folder, best, records."""
    with _cluster():
        from yt8m_ray.tuning.search import search

        return search(config)


def evaluate(
    model: str | Path, shards: str | Sequence[str], changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns exact metrics of a model over every labelled video of shards, as `yt8m evaluate` prints them."""
    with _cluster():
        from yt8m_ray.inference.batch.evaluate import evaluate_shards, shards_of
        from yt8m_ray.inference.evaluation_config import evaluation_config
        from yt8m_ray.inference.locate import locate_model

        folder = locate_model(model)
        keys = {"data.test": shards if isinstance(shards, str) else list(shards), **(changes or {})}
        config: EvaluateConfig = override(evaluation_config(folder), keys)
        return evaluate_shards(folder, shards_of(folder, config), config)


def predict(model: str | Path, shards: str | Sequence[str], output: str | Path, *, top_k: int = 20) -> int:
    """Writes the best classes of each video to a .csv, .csv.gz or .parquet file; returns how many videos."""
    with _cluster():
        from yt8m_ray.data.pipeline.shards import expand_shards
        from yt8m_ray.inference.batch.predict import predict_shards
        from yt8m_ray.inference.locate import locate_model

        return predict_shards(locate_model(model), expand_shards(shards, key="shards"), str(output), top_k=top_k)


def export(config: ExportConfig | Mapping[str, Any]) -> Any:
    """Makes a bundle; returns (its folder or tar, its document). A mapping is a document of `ExportConfig`."""
    with _cluster():
        from yt8m_ray.inference.ensemble.export import check_records, resolve
        from yt8m_ray.inference.ensemble.export import export as write

        resolved, shards = resolve(ExportConfig.model_validate(config))
        check_records(resolved, shards)
        return write(resolved, shards)


@contextlib.contextmanager
def _cluster() -> Iterator[None]:
    configure_environment(RAY_ENVIRONMENT, import_environment())
    import ray

    if ray.is_initialized():
        yield
        return
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with ray_cluster():
        yield
    if is_main:
        for number, handler in handlers.items():
            signal.signal(number, handler)

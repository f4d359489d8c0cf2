"""How many trials a cluster has room for at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.training.driver.scaling import Node, gpu_places

TRIAL_CPUS = 0.001  # logical CPUs of a trial's driver, which only waits for its workers

# Quotients of CPU shares such as 0.1 may come out just below a whole number.
_ROUNDING = 1e-6

# Schedulers whose trials wait for one another, so that more have begun than train at a time.
_WAITING = ("pbt", "hyperband")


@dataclass(frozen=True)
class Capacity:
    """Trials at once, and what each of their workers takes."""

    num_trials: int
    cpus_per_worker: float
    gpus_per_worker: float = 0.0
    is_limit: bool = True  # no more trials may begin; otherwise others begin, and wait for lack of room


def plan_trials(config: TuneConfig, nodes: Sequence[Node], *, reader_cpus: float) -> Capacity:
    """Returns the configured number of trials at once, or as many as fit with two readers each.

    Raises:
        ConfigError: fewer fit than configured, or none.
    """
    # Ray would start a trial whose workers do not fit, and wait for them for ever.
    scaling, wanted = config.scaling, config.tune.max_concurrent
    num_workers, share = scaling.most_workers, scaling.gpus_per_worker
    if scaling.least_workers != num_workers:
        raise ConfigError(f"scaling.num_workers: trials have a fixed number of workers, found {scaling.num_workers}")
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    places = sum(gpu_places(node, share) for node in nodes)
    use_gpu = places >= num_workers if scaling.use_gpu is None else scaling.use_gpu
    each = scaling.cpus_per_worker
    most = _most_trials(nodes, num_workers, each or reader_cpus, reader_cpus)
    if each is None and wanted is None:  # a core each, but for the readers
        most = min(most, max(math.floor(cpus / num_workers + _ROUNDING), 1))
    if use_gpu:
        most = min(most, places // num_workers)
    if most < (wanted or 1):
        workers = f"{num_workers} worker{'s' * (num_workers > 1)}" + (f" of {each:g} CPUs" if each else "")
        on_gpus = f" on {share:g} GPUs each" if use_gpu else ""
        raise ConfigError(
            f"tune.max_concurrent: {wanted or 1} trials of {workers}{on_gpus} and two readers of {reader_cpus:g} CPUs "
            f"do not fit the cluster's {cpus:g} logical CPUs and {gpus:g} GPUs, {most} do; lower it, "
            "scaling.num_workers or scaling.cpus_per_worker"
        )
    num_trials = wanted or most
    if each is None:
        each = min(1.0, (cpus / num_trials - 2 * reader_cpus - TRIAL_CPUS) / num_workers)
        each = math.floor(each * 1000) / 1000  # what is rounded up would not fit
    is_limit = config.tune.scheduler.name not in _WAITING or num_workers > 1
    if not is_limit:
        # Ray Tune sets no limit here, so a trial takes CPUs enough that one more does not fit, if readers keep theirs.
        enough = max(each, math.ceil(1000 * cpus / (num_trials + 1) + 1) / 1000)
        if num_trials * enough + reader_cpus <= cpus:
            each = enough
    elif config.tune.scheduler.name in _WAITING:
        _check_all_at_once(config, num_trials)
    return Capacity(num_trials, each, share if use_gpu else 0.0, is_limit)


def _check_all_at_once(config: TuneConfig, num_trials: int) -> None:
    wanted, name = config.tune.budget.trials, config.tune.scheduler.name
    if wanted is None or wanted > num_trials:
        raise ConfigError(
            f"tune.budget.trials: with {config.scaling.num_workers} workers a trial, scheduler {name} needs room for "
            f"all trials at once; {num_trials} have room, found {wanted}"
        )


def _most_trials(nodes: Sequence[Node], num_workers: int, each: float, reader_cpus: float) -> int:
    # A trial's workers and readers may be on several nodes, but each worker is on one.
    cpus = sum(node.cpus for node in nodes)
    places = sum(math.floor(node.cpus / each + _ROUNDING) for node in nodes)
    by_cpus = math.floor(cpus / (num_workers * each + 2 * reader_cpus + TRIAL_CPUS) + _ROUNDING)
    return min(by_cpus, places // num_workers)

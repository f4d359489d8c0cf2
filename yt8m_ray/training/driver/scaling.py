"""How many workers a cluster has room for, from what `yt8m_ray.training.driver.nodes` has found there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError

_LEAST_CPUS = 0.01
# In floats, 0.3 CPUs hold 2.9999999999999996 workers of 0.1.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, with its logical CPUs and GPUs."""

    node_id: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Workers:
    """The workers of a run: how many, and what each takes."""

    num: int
    cpus_each: float
    use_gpu: bool
    gpus_each: float = 1.0


def plan_workers(config: TrainConfig, nodes: Sequence[Node], *, reader_cpus: float) -> Workers:
    """Returns as many workers as the config wants and the nodes have room for; ConfigError where the fewest do not fit.

    A reader has room beside them.
    """
    wanted = config.scaling
    least, most = wanted.least_workers, wanted.most_workers
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    if config.train.batch_size < most:
        raise ConfigError(f"train.batch_size: {config.train.batch_size} videos are too few for {most} workers")
    share = wanted.gpus_per_worker
    has_gpus = sum(gpu_places(node, share) for node in nodes) >= least
    use_gpu = has_gpus if wanted.use_gpu is None else wanted.use_gpu
    if use_gpu and not has_gpus:
        each_of = "a GPU" if share == 1 else f"{share:g} GPUs"
        raise ConfigError(f"scaling.num_workers: {least} need {each_of} each, the cluster has {gpus:g}")
    each = wanted.cpus_per_worker or min(1.0, (cpus - 2 * reader_cpus) / least)
    num = 0
    if each > _LEAST_CPUS:
        num = min(_room(nodes, each, share=share if use_gpu else None, reader_cpus=reader_cpus), most)
    if num < least:
        raise ConfigError(
            f"scaling: {least} workers of {each:g} CPUs and a reader of {reader_cpus} do not fit the cluster's "
            f"{cpus:g} logical CPUs; lower scaling.num_workers or scaling.cpus_per_worker"
        )
    return Workers(num, each, use_gpu, share)


def gpu_places(node: Node, share: float) -> int:
    """Returns how many workers find their share of GPUs on a node."""
    # No worker has parts of two GPUs.
    if share >= 1:
        return math.floor(node.gpus / share + _ROUNDING)
    return int(node.gpus) * math.floor(1 / share + _ROUNDING)


def _room(nodes: Sequence[Node], each: float, *, share: float | None, reader_cpus: float) -> int:
    # Where one node, the one that suits best, has the reader too.
    def fitting(node: Node, cpus: float) -> int:
        num = math.floor(cpus / each + _ROUNDING)
        return num if share is None else min(num, gpu_places(node, share))

    whole = [fitting(node, node.cpus) for node in nodes]
    beside_reader = [
        sum(whole) - whole[index] + fitting(node, node.cpus - reader_cpus)
        for index, node in enumerate(nodes)
        if node.cpus >= reader_cpus
    ]
    return max(beside_reader, default=0)

"""The nodes of a run's Ray cluster: which of them answer, which are about to go, whether they share a folder."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from yt8m_ray.cluster import READ_CPUS
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.training.driver.scaling import Node, Workers, plan_workers

logger = logging.getLogger(__name__)

# A run that has lost nodes waits so long for the cluster to have room for it again.
CLUSTER_WAIT_S = 300.0
_PROBE_TIMEOUT_S = 20.0
_PAUSE_S = 1.0
_BUSY_S = 10.0


def present_nodes() -> list[Node]:
    """Returns the nodes that are alive as far as Ray knows, without those that are about to go."""
    going = draining_nodes()
    return [
        Node(node["NodeID"], node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in going
    ]


def draining_nodes() -> set[str]:
    """Returns the nodes that were given notice, by a cloud that takes them back or by `ray drain-node`."""
    # Not public in Ray 2.60. Its PreemptionWatcher asks the same, but logs an error about itself at every start.
    return set(ray._private.state.state.get_draining_nodes())


def free_cpus() -> float:
    """Returns the logical CPUs that no work of the cluster has reserved."""
    return float(ray.available_resources().get("CPU", 0.0))


def fitting_workers(config: TrainConfig) -> Workers:
    """Returns the workers that the cluster has room for now; ConfigError where it has too little."""
    return plan_workers(config, present_nodes(), reader_cpus=READ_CPUS)


def wait_for_workers(config: TrainConfig, *, wait_s: float = CLUSTER_WAIT_S) -> Workers:
    """Returns the workers that fit nodes which answer; ConfigError where there is too little room for `wait_s`."""
    deadline = time.monotonic() + wait_s
    has_said = False
    while True:
        nodes = present_nodes()
        # A node that has just died counts as alive for some seconds; a start that counts on it fails after a minute.
        answers = _ask_nodes(nodes, os.getpid)
        answering = [node for node in nodes if node.node_id in answers]
        try:
            if len(answering) == len(nodes) or time.monotonic() > deadline:
                return plan_workers(config, answering, reader_cpus=READ_CPUS)
        except ConfigError as error:
            if time.monotonic() > deadline:
                raise ConfigError(f"{error} (waited {wait_s:g} s for more)") from None
            if not has_said:
                logger.warning("waiting up to %g s for the cluster: %s", wait_s, error)
                has_said = True
        time.sleep(_PAUSE_S)


def can_train_here(config: TrainConfig, workers: Workers) -> bool:
    """Returns whether this process may be the run's one worker."""
    # With a GPU it may not: Ray gives GPUs to workers alone, and would give this one to another run too.
    is_one = workers.num == config.scaling.most_workers == 1 and not workers.use_gpu
    return config.scaling.local_mode and is_one and len(present_nodes()) == 1


@contextlib.contextmanager
def reserved_cpus(num: float) -> Iterator[None]:
    """Waits for logical CPUs and holds them while the `with` block runs."""
    group = placement_group([{"CPU": num}])
    try:
        while not group.wait(timeout_seconds=_BUSY_S):
            logger.info("waiting for %g CPUs, which other work of the cluster has", num)
        yield
    finally:
        remove_placement_group(group)


def check_shared(folder: Path) -> None:
    """Checks that all nodes see the same folder; a ConfigError names those that do not."""
    nodes = present_nodes()
    if len(nodes) < 2:
        return
    # A new name: a node that mounts another folder at this path may hold the probe of another run.
    probe = folder / f".probe-{uuid.uuid4().hex}"
    probe.touch()
    try:
        answers = _ask_nodes(nodes, os.path.exists, str(probe))
    finally:
        probe.unlink()
    blind = sorted(node_id for node_id, sees_it in answers.items() if not sees_it)
    if blind:
        addresses = sorted(node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] in blind)
        raise ConfigError(
            f"output: {folder.parent} is not the same folder on all {len(nodes)} nodes: {len(blind)} do not see what "
            f"this one writes there ({', '.join(addresses)}); give a folder that they share, or s3://BUCKET/FOLDER"
        )


def _ask_nodes(nodes: Collection[Node], function: Any, *arguments: Any) -> dict[str, Any]:
    """Returns what `function(*arguments)` gives on each node, by its id; a node that does not answer is left out."""
    if len(nodes) < 2:
        return {node.node_id: function(*arguments) for node in nodes}
    ask = ray.remote(num_cpus=0, max_retries=0)(_call)
    questions = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        questions[ask.options(scheduling_strategy=there).remote(function, *arguments)] = node.node_id
    done, late = ray.wait(list(questions), num_returns=len(questions), timeout=_PROBE_TIMEOUT_S)
    # A task for a node that has died would wait for ever.
    for question in late:
        ray.cancel(question, force=True)
    answers = {}
    for question in done:
        try:
            answers[questions[question]] = ray.get(question)
        except ray.exceptions.RayError as error:
            logger.debug("node %s does not answer: %s", questions[question], error)
    return answers


def _call(function: Any, *arguments: Any) -> Any:
    return function(*arguments)

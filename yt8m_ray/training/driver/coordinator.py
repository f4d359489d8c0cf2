"""Messages between the driver of a run and its workers, through a small actor on the driver's node.

The actor dies with the driver; whatever has to outlive it is in checkpoints.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from yt8m_ray.data.pipeline.read_position import Position

Metrics = Mapping[str, float]

# Metrics at a step, and how far the run is: the arguments of `History.append`.
Measured = tuple[Metrics, int, Metrics]

# Between two times that a worker asks whether it is to stop.
POLL_S = 0.5

_ANSWER_TIMEOUT_S = 10.0


@dataclass
class Taken:
    """What workers sent since the driver last looked."""

    lines: list[str] = field(default_factory=list)  # of the log
    measured: list[Measured] = field(default_factory=list)
    reported: list[Metrics] = field(default_factory=list)  # of the checkpoints that were written
    node_ids: frozenset[str] = frozenset()  # where workers train: all nodes, not the new ones alone


class Messages:
    """The messages of a run; in the actor's process, or in the driver where that is the one worker."""

    def __init__(self) -> None:
        self._position = Position()
        self._taken = Taken()
        self._stop = threading.Event()
        self._lock = threading.Lock()  # in the driver, the worker is another thread

    def start_epoch(self, position: Position) -> None:
        """Sets the records that the next passes over `train` leave out."""
        self._position = position

    def position(self) -> Position:
        """Returns what `start_epoch` has set."""
        return self._position

    def join(self, node_id: str) -> None:
        """Tells the driver on which node a worker trains."""
        with self._lock:
            self._taken.node_ids |= {node_id}

    def add_line(self, line: str) -> None:
        """Sends a line of the log."""
        self._taken.lines.append(line)

    def add_measured(self, metrics: Metrics, step: int, progress: Metrics) -> None:
        """Sends what was measured at a step, and how far the run is."""
        with self._lock:
            self._taken.measured.append((metrics, step, progress))

    def add_reported(self, metrics: Metrics) -> None:
        """Sends the metrics of a checkpoint that was written."""
        self._taken.reported.append(metrics)

    def take(self) -> Taken:
        """Returns what came since the last call."""
        with self._lock:
            taken, self._taken = self._taken, Taken(node_ids=self._taken.node_ids)
        return taken

    def request_stop(self) -> None:
        """Asks the workers to end after the running step, with a checkpoint."""
        self._stop.set()

    def is_stopping(self) -> bool:
        """Returns whether `request_stop` was called."""
        return self._stop.is_set()

    def stop_event(self) -> threading.Event:
        """Returns an event that is set soon after a request to stop."""
        return self._stop


class Coordinator:
    """`Messages` in an actor; a copy of this handle in another process talks to the same one."""

    def __init__(self) -> None:
        # On the driver's own node: the loss of any other must not take the messages with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._actor: Any = ray.remote(num_cpus=0)(Messages).options(scheduling_strategy=here).remote()
        self._asked: Any = None  # the answer to `take` that was late
        self._node_ids: frozenset[str] = frozenset()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_asked": None}

    def start_epoch(self, position: Position) -> None:
        ray.get(self._actor.start_epoch.remote(position))

    def position(self) -> Position:
        position: Position = ray.get(self._actor.position.remote())
        return position

    def join(self, node_id: str) -> None:
        ray.get(self._actor.join.remote(node_id))

    def add_measured(self, metrics: Metrics, step: int, progress: Metrics) -> None:
        self._actor.add_measured.remote(metrics, step, progress)

    def add_reported(self, metrics: Metrics) -> None:
        self._actor.add_reported.remote(metrics)

    def take(self) -> Taken:
        """Returns what came since the last call; nothing where the actor is late or gone."""
        asked, self._asked = self._asked or self._actor.take.remote(), None
        try:
            taken: Taken = ray.get(asked, timeout=_ANSWER_TIMEOUT_S)
        except ray.exceptions.GetTimeoutError:  # a busy machine: the next call takes the answer to this one
            self._asked = asked
            return Taken(node_ids=self._node_ids)
        except ray.exceptions.RayError:  # gone with its node: the run itself fails, and says why
            return Taken()
        self._node_ids = taken.node_ids
        return taken

    def request_stop(self) -> None:
        self._actor.request_stop.remote()

    def stop_event(self) -> threading.Event:
        event = threading.Event()
        threading.Thread(target=self._watch, args=(event,), daemon=True).start()
        return event

    def log_handler(self) -> logging.Handler:
        """Returns a handler that sends lines to the driver."""
        return _LineHandler(self._actor)

    def _watch(self, event: threading.Event) -> None:
        while not event.is_set():
            time.sleep(POLL_S)
            try:
                if ray.get(self._actor.is_stopping.remote()):
                    event.set()
            except ray.exceptions.RayError:  # the driver is gone, and Ray ends its workers too
                return


class _LineHandler(logging.Handler):
    def __init__(self, actor: Any) -> None:
        super().__init__()
        self._actor = actor

    def emit(self, record: logging.LogRecord) -> None:
        self._actor.add_line.remote(self.format(record))

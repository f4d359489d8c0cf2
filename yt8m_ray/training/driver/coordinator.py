"""What the driver of a run and its workers tell one another, wherever they are: a small actor on the driver's node.

All of it goes with the driver; what has to outlive it is in checkpoints.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from yt8m_ray.data.pipeline.read_position import Position

Measured = tuple[Mapping[str, float], int, Mapping[str, float]]
"""Metrics at a step, and how far the run is: what `History.append` takes."""

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Taken:
    """What has come since the last look.

    Attributes:
        lines: Logged by workers.
        measured: For the history.
        reported: Metrics of the checkpoints that were written.
        node_ids: The nodes where workers train; all of them, not the new ones alone.
    """

    lines: Sequence[str] = ()
    measured: Sequence[Measured] = ()
    reported: Sequence[Metrics] = ()
    node_ids: frozenset[str] = frozenset()


POLL_S = 0.5
"""Seconds between a worker's looks for a request to stop."""

_ANSWER_TIMEOUT_S = 10.0


class _CoordinatorActor:
    """Keeps the messages; runs in a process of its own."""

    def __init__(self) -> None:
        self._position = Position()
        self._lines: list[str] = []
        self._measured: list[Measured] = []
        self._reported: list[Metrics] = []
        self._node_ids: set[str] = set()
        self._is_stopping = False

    def start_epoch(self, position: Position) -> None:
        self._position = position

    def position(self) -> Position:
        return self._position

    def join(self, node_id: str) -> None:
        self._node_ids.add(node_id)

    def add_line(self, line: str) -> None:
        self._lines.append(line)

    def add_measured(self, measured: Measured) -> None:
        self._measured.append(measured)

    def add_reported(self, metrics: Metrics) -> None:
        self._reported.append(metrics)

    def take(self) -> Taken:
        taken = Taken(self._lines, self._measured, self._reported, frozenset(self._node_ids))
        self._lines, self._measured, self._reported = [], [], []
        return taken

    def request_stop(self) -> None:
        self._is_stopping = True

    def is_stopping(self) -> bool:
        return self._is_stopping


class Coordinator:
    """The way to the box; may be sent to other processes, which share it."""

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._box: Any = ray.remote(num_cpus=0)(_CoordinatorActor).options(scheduling_strategy=here).remote()
        self._asked: Any = None  # what `take` has asked for and not got yet
        self._node_ids: frozenset[str] = frozenset()

    def __getstate__(self) -> dict[str, Any]:
        return {"_box": self._box, "_asked": None, "_node_ids": frozenset()}

    def start_epoch(self, position: Position) -> None:
        """Says which records the next passes over `train` leave out."""
        ray.get(self._box.start_epoch.remote(position))

    def position(self) -> Position:
        """Returns what `start_epoch` said."""
        position: Position = ray.get(self._box.position.remote())
        return position

    def join(self) -> None:
        """Says on which node this worker trains."""
        node_id = ray.get_runtime_context().get_node_id()
        ray.get(self._box.join.remote(node_id))

    def add_measured(self, metrics: Mapping[str, float], step: int, progress: Mapping[str, float]) -> None:
        """Hands on what was measured at a step, and how far the run is."""
        self._box.add_measured.remote((metrics, step, progress))

    def add_reported(self, metrics: Metrics) -> None:
        """Hands on the metrics of a checkpoint that was written."""
        self._box.add_reported.remote(metrics)

    def take(self) -> Taken:
        """Returns what has come since the last call."""
        asked, self._asked = self._asked or self._box.take.remote(), None
        try:
            taken: Taken = ray.get(asked, timeout=_ANSWER_TIMEOUT_S)
        except ray.exceptions.GetTimeoutError:  # a busy machine: what comes late is not lost
            self._asked = asked
            return Taken(node_ids=self._node_ids)
        except ray.exceptions.RayError:  # gone with its node: the run itself says what is wrong
            return Taken()
        self._node_ids = taken.node_ids
        return taken

    def request_stop(self) -> None:
        """Asks the workers to write a checkpoint behind the running step and to end."""
        self._box.request_stop.remote()

    def stop_event(self) -> threading.Event:
        """Returns an event that is set soon after a request to stop."""
        event = threading.Event()
        threading.Thread(target=self._watch, args=(event,), daemon=True).start()
        return event

    def log_handler(self) -> logging.Handler:
        """Returns a handler that hands lines to the driver."""
        return _LineHandler(self._box)

    def _watch(self, event: threading.Event) -> None:
        while not event.is_set():
            time.sleep(POLL_S)
            try:
                if ray.get(self._box.is_stopping.remote()):
                    event.set()
            except ray.exceptions.RayError:  # the driver is gone, and its workers go too
                return


class LocalCoordinator(Coordinator):
    """The coordinator of a run whose worker is a thread of its driver: nothing leaves the process, nor its log."""

    def __init__(self) -> None:
        self._inner = _CoordinatorActor()
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def start_epoch(self, position: Position) -> None:
        self._inner.start_epoch(position)

    def position(self) -> Position:
        return self._inner.position()

    def join(self) -> None:
        self._inner.join(ray.get_runtime_context().get_node_id())

    def add_measured(self, metrics: Metrics, step: int, progress: Metrics) -> None:
        with self._lock:
            self._inner.add_measured((metrics, step, progress))

    def take(self) -> Taken:
        with self._lock:
            return self._inner.take()

    def request_stop(self) -> None:
        self._stop.set()

    def stop_event(self) -> threading.Event:
        return self._stop


class _LineHandler(logging.Handler):
    def __init__(self, box: Any) -> None:
        super().__init__()
        self._box = box

    def emit(self, record: logging.LogRecord) -> None:
        self._box.add_line.remote(self.format(record))

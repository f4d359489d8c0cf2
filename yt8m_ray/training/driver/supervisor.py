"""The driver's watch over one start of a run: the workers' log and metrics, and changes of the cluster."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.progress import LINE_INTERVAL_S
from yt8m_ray.errors import ConfigError
from yt8m_ray.tracking.history import History
from yt8m_ray.training.driver.coordinator import Coordinator, Messages
from yt8m_ray.training.driver.interruptible import StopRequested
from yt8m_ray.training.driver.nodes import draining_nodes, fitting_workers, free_cpus
from yt8m_ray.training.driver.progress import ProgressBar
from yt8m_ray.training.driver.scaling import Workers
from yt8m_ray.training.run.hooks import RunHooks
from yt8m_ray.training.run.run_folder import append_log

logger = logging.getLogger(__name__)

# A start with too few workers trains at least this long before a start with more follows.
GROWTH_PAUSE_S = 30.0

_LOOK_INTERVAL_S = 1.0


class Supervisor:
    """Watches one start of a run, and asks its workers to stop where another start would be better.

    The run's `folder` gets the workers' log lines and history; `is_local`: this process is the one worker.
    """

    def __init__(self, config: TrainConfig, workers: Workers, folder: Path, hooks: RunHooks, *, is_local: bool) -> None:
        self.workers = workers
        self.coordinator: Coordinator | Messages = Messages() if is_local else Coordinator()
        self.reason: str | None = None  # why the workers were asked to stop
        self.has_notice = False  # whether that is because a node of theirs is about to go
        self._config = config
        self._folder = folder
        self._step: int | None = None
        self._last_line = time.monotonic()
        self._history = History(folder)
        self.hooks = hooks
        self._is_ending = False
        self._node_ids: frozenset[str] = frozenset()
        self._next_look = 0.0
        self._training_since: float | None = None

    def tick(self, bar: ProgressBar | None = None) -> None:
        """Handles what the workers sent, and looks at the cluster once a second.

        Raises:
            StopRequested: the hooks want the run to end; raised once.
        """
        taken = self.coordinator.take()
        lines, self._node_ids = taken.lines, taken.node_ids
        for metrics, step, progress in taken.measured:
            self._history.append(metrics, step, progress)
            self._step = step
            self.hooks.measured(metrics)
        for metrics in taken.reported:
            self.hooks.checkpoint_written(metrics)
        now = time.monotonic()
        if lines:
            append_log(self._folder, lines)
            self._last_line = now
        for line in lines:
            logger.info("%s", line)
        # Their start, a validation, the writing of a checkpoint.
        if now - self._last_line > LINE_INTERVAL_S and bar is None:
            self._last_line = now
            logger.info("%s", "starting" if self._step is None else f"at work, after step {self._step}")
        if bar is not None:
            bar.update()
        if self._node_ids and self._training_since is None:
            self._training_since = now
        if self.reason is None and self._training_since is not None and now >= self._next_look:
            self._next_look = now + _LOOK_INTERVAL_S
            self._look(now - self._training_since)
        if not self._is_ending and self.hooks.should_stop():
            self._is_ending = True
            raise StopRequested

    def ask_to_stop(self) -> bool:
        """Asks the workers to stop; returns whether that is worth waiting for."""
        self.coordinator.request_stop()
        # Workers that are not there yet end as soon as they are.
        return bool(self._node_ids) or self._is_ending

    def _look(self, age_s: float) -> None:
        going = draining_nodes() & self._node_ids
        if going:
            self.has_notice = True
            self._restart(f"{len(going)} nodes with workers are about to go")
        elif self.workers.num < self._config.scaling.most_workers and age_s > GROWTH_PAUSE_S:
            try:
                num = fitting_workers(self._config).num
            except ConfigError:  # the cluster has shrunk instead, which the run notices where it lost a worker
                return
            if num > self.workers.num and free_cpus() >= (num - self.workers.num) * self.workers.cpus_each:
                self._restart(f"the cluster has room for {num} workers instead of {self.workers.num}")

    def _restart(self, reason: str) -> None:
        logger.info("%s: the workers write a checkpoint", reason)
        self.reason = reason
        self.coordinator.request_stop()

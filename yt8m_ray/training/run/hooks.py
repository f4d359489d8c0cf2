"""Callbacks of a run, by which a search follows its trials and ends them."""

from __future__ import annotations

from collections.abc import Mapping


class RunHooks:
    """Does nothing; a caller overrides what it needs. All of it runs in the run's driver."""

    tags: Mapping[str, str] = {}  # of the run in MLflow
    has_uploads: bool = True  # MLflow gets the best checkpoint and the report
    is_in_process: bool = False  # this process is the one worker, and has the CPUs and the GPU for it

    def checkpoint_written(self, metrics: Mapping[str, float]) -> None:
        """Follows a checkpoint; after an epoch its metrics have `epoch` and `validation/...`."""
        # Where the run is in process, its worker calls it, and trains on when it returns.

    def measured(self, metrics: Mapping[str, float]) -> None:
        """Follows an interval, or an epoch."""

    def should_stop(self) -> bool:
        """Returns whether the run is to stop after its running step, with a checkpoint; called about every second."""
        return False

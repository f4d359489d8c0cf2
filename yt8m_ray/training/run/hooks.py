"""What a caller of `fit` hears of a run, and how it ends it: what a search does with each of its trials."""

from __future__ import annotations

from collections.abc import Mapping


class RunHooks:
    """Hears nothing and lets the run go on; a caller overrides what it needs. All of it runs in the run's driver.

    Where the run is in process, `checkpoint_written` is called by its worker, which goes on when it returns.

    Attributes:
        tags: What the run gets in MLflow.
        has_uploads: Whether MLflow gets the best checkpoint and the report.
        is_in_process: Whether this process, which then has the CPUs and the GPU for it, is the run's one worker; no
            other is started.
    """

    tags: Mapping[str, str] = {}
    has_uploads: bool = True
    is_in_process: bool = False

    def checkpoint_written(self, metrics: Mapping[str, float]) -> None:
        """Hears that a checkpoint is there; behind an epoch its metrics have `epoch` and `validation/...`."""

    def should_stop(self) -> bool:
        """Returns whether the run is to stop behind its running step, with a checkpoint; asked again and again."""
        return False

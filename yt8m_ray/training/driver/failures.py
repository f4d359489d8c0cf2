"""Why a run of Ray Train failed: a loss, which a restart mends, or an error to show."""

from __future__ import annotations

import logging

import ray.exceptions

from yt8m_ray.cluster import root_cause

logger = logging.getLogger(__name__)

_LOSSES = (
    ray.exceptions.RayActorError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.WorkerCrashedError,
)
# In the errors of gloo and NCCL where the other end of a collective died, or is silent for half an hour.
_LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Socket closed",
    "remote process exited",
    "Timed out waiting",
)


def final_error(error: Exception) -> BaseException | None:
    """Returns the error to show where a restart would not help, or None where a worker or node was lost."""
    # `worker_failures` of Ray's WorkerGroupError: the workers' own errors by rank.
    causes = list(getattr(error, "worker_failures", {}).values())
    if any(_is_loss(cause) for cause in causes) or _is_failed_start(error):
        return None
    for cause in causes or [error]:
        cause = root_cause(cause)
        if isinstance(cause, ValueError | OSError | FloatingPointError):
            return cause
    # Not for a user to mend: with the worker's traceback.
    logger.error("%s", error)
    return causes[0] if causes else error


def _is_loss(cause: BaseException) -> bool:
    # By its own error, or by that of a worker that waited for it.
    is_gone = isinstance(cause, _LOSSES) or "HealthCheck" in type(cause).__name__
    return is_gone or (isinstance(cause, RuntimeError) and any(text in str(cause) for text in _LOST_PEER))


def _is_failed_start(error: BaseException) -> bool:
    # The workers could not all be started, since a node went or others took its place.
    return type(getattr(error, "controller_failure", None)).__name__.startswith("WorkerGroupStartup")


def last_line(error: BaseException) -> str:
    """Returns the last line of an error of Ray."""
    # It comes after the tracebacks of all its processes.
    return str(error).strip().splitlines()[-1][:300]

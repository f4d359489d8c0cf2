"""Tasks on a Ray cluster: how many CPUs it has, one task an item, and what was wrong in one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

import ray
import ray.exceptions

from yt8m_ray.errors import CarriedError

R = TypeVar("R")
T = TypeVar("T")

# Logical CPUs that a read task asks for: little, so that readers fit beside workers on few CPUs.
READ_CPUS = 0.25


def cluster_cpus() -> float:
    """Returns the logical CPUs of the cluster."""
    return float(ray.cluster_resources().get("CPU", 1.0))


class Shared(Generic[T]):
    """A value in the cluster's object store, for as long as its maker holds this; pickle copies only the reference."""

    def __init__(self, value: T) -> None:
        self._place = ray.put(value)

    def get(self) -> T:
        """Returns the value, whose NumPy arrays share the memory of the store and cannot be written to."""
        value: T = ray.get(self._place)
        return value


def map_tasks(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    num_workers: int | None = None,
    num_cpus: float = 1.0,
    on_error: Callable[[int, BaseException], R] | None = None,
    grace_s: float = 0.0,
) -> Generator[tuple[int, R], None, None]:
    """Yields (index of the item, `function(item)`) in the order in which they are done, each by a task of its own.

    At most `num_workers` run at once, as many as the cluster has CPUs by default. `on_error` makes a result of an
    item's error, and the others go on; without it the first error is raised. Where the caller is interrupted, its tasks
    are too, and have `grace_s` to end.
    """
    if num_workers is None:
        num_workers = max(int(cluster_cpus()), 1)
    # Ray calls the function again where its worker dies.
    call: Any = ray.remote(num_cpus=num_cpus)(_call)
    shared = ray.put(function)
    waiting = iter(enumerate(items))
    running: dict[Any, int] = {}
    try:
        while True:
            # As many as there is room for, not all: what is submitted waits in Ray and has to be cancelled.
            for index, item in itertools.islice(waiting, num_workers - len(running)):
                running[call.remote(shared, item)] = index
            if not running:
                return
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            index = running.pop(done)
            try:
                result = ray.get(done)
            except ray.exceptions.RayError as error:
                if on_error is None:
                    raise root_cause(error) from None
                result = on_error(index, root_cause(error))
            yield index, result
    finally:
        for task in running:
            # Not recursive: a task ends what it started itself.
            ray.cancel(task, recursive=False)
        if running and grace_s:
            ray.wait(list(running), num_returns=len(running), timeout=grace_s)


def root_cause(error: BaseException) -> BaseException:
    """Returns the exception of our own code inside those that Ray, and we for Ray, wrap around it."""
    while isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error.error if isinstance(error, CarriedError) else error


def _call(function: Callable[[T], R], item: T) -> R:
    return function(item)

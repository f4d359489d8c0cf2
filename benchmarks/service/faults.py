"""Replicas that are killed and models that are changed under load (`faults`), and more load than there is room for."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import RETRIED, Question, Retry, Tally, closed_loop, open_loop
from benchmarks.service.bundles import (
    make_videos,
    record_questions,
    write_damaged_bundle,
    write_random_bundle,
)
from benchmarks.service.deployed import Deployed, deployed, watched

_CHANGING = 0.9
"""Of the expected time: the last change has to be over before the last question is asked."""

PATIENT = Retry(attempts=20, backoff_s=0.2)
_LIGHT = 0.2
"""Of the capacity: the load at which the service counts as recovered."""


@dataclass
class Events:
    """What was done to the service, each with its second."""

    kills: list[float] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)


def faults(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Asks two replicas at a share of their capacity while they are killed and their models are changed."""
    bundles = {name: write_random_bundle(folder / name, options.bundle, seed=seed) for seed, name in enumerate("ab", 1)}
    questions = record_questions(make_videos(options.videos, options.frames), list(bundles.values()))
    bundles["damaged"] = write_damaged_bundle(folder / "damaged", bundles["b"])
    passes = {"without_retries": Retry(), "with_retries": PATIENT}
    found: dict[str, Any] = {}
    with deployed(bundles, proxy=options.proxy, num_replicas=2) as service:
        capacity = _capacity(service, questions, options.seconds)
        print(f"capacity: {capacity:.1f} a second", file=sys.stderr, flush=True)
        for name, retry in passes.items():
            if options.retries in ("both", name):
                found[name] = asyncio.run(_with_faults(service, questions, retry, capacity, options))
                print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    return {"capacity_per_s": round(capacity, 1), **found}


async def _with_faults(
    service: Deployed, questions: list[Question], retry: Retry, capacity: float, options: argparse.Namespace
) -> dict[str, Any]:
    rate = options.share * capacity
    events, started = Events(), time.perf_counter()
    doing = [
        asyncio.create_task(kill_on(service, options.kill_every_s, events, started)),
        asyncio.create_task(change_on(service, ("b", "damaged", "a"), options.count / rate, events, started)),
    ]
    try:
        tally = await open_loop(service.port, questions, per_s=rate, count=options.count, retry=retry)
    finally:
        for task in doing:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*doing)
    return {
        "asked_per_s": round(rate, 1),
        "kills_at_s": events.kills,
        "changes": events.changes,
        **tally.figures(),
        "not_allowed": not_allowed(tally),
    }


def not_allowed(tally: Tally) -> dict[str, int]:
    """Returns the attempts that ended otherwise than with 200, 502, 503 or 504."""
    allowed = {"200", *RETRIED} - {"lost", "timeout"}
    return {status: count for status, count in tally.statuses.items() if status not in allowed}


async def kill_on(service: Deployed, every_s: float, events: Events, started: float) -> None:
    """Kills one of the replicas over and over, until cancelled; never the last one."""
    while True:
        await asyncio.sleep(every_s)
        replicas = await asyncio.to_thread(service.replicas)
        if len(replicas) > 1:
            with contextlib.suppress(psutil.Error):
                random.choice(replicas).kill()
            events.kills.append(round(time.perf_counter() - started, 1))


async def change_on(service: Deployed, names: tuple[str, ...], seconds: float, events: Events, started: float) -> None:
    """Promotes models one after the other, evenly over so many seconds; a damaged one has to be refused."""
    for number, name in enumerate(names, 1):
        due = started + _CHANGING * seconds * number / (len(names) + 1)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        expected = 409 if name == "damaged" else 200
        for attempt in range(1, 11):
            asked = time.perf_counter()
            try:
                status: int | str = (await service.promote(name)).status
            except (OSError, EOFError) as error:
                status = type(error).__name__
            change = {"model": name, "attempt": attempt, "status": status, "at_s": round(asked - started, 1)}
            events.changes.append({**change, "took_s": round(time.perf_counter() - asked, 1)})
            if status == expected:
                break
            await asyncio.sleep(1)


def _capacity(service: Deployed, questions: list[Question], seconds: float) -> float:
    tally = asyncio.run(closed_loop(service.port, questions, connections=64, seconds=seconds))
    assert tally.wrong == 0 and tally.per_s > 0, tally.figures()
    return tally.per_s


def overload(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Asks for more than the service can answer, watches its memory, and then asks for little."""
    bundle = write_random_bundle(folder / "overload", options.bundle, seed=1)
    questions = record_questions(make_videos(options.videos, options.frames), [bundle])
    with deployed({"a": bundle}, proxy=options.proxy, num_replicas=options.replicas) as service:
        capacity = _capacity(service, questions, options.capacity_s)
        print(f"capacity: {capacity:.1f} a second", file=sys.stderr, flush=True)
        found = asyncio.run(_flood(service, questions, capacity, options))
    return {"capacity_per_s": round(capacity, 2), **found}


async def _flood(
    service: Deployed, questions: list[Question], capacity: float, options: argparse.Namespace
) -> dict[str, Any]:
    memory = watched(service)
    watching = asyncio.create_task(memory.watch())
    flooding = asyncio.create_task(
        open_loop(service.port, questions, per_s=options.times * capacity, seconds=options.seconds)
    )
    await asyncio.sleep(options.seconds)  # what is under way then is answered beside the light load
    light = await open_loop(service.port, questions, per_s=_LIGHT * capacity, seconds=options.recovery_s)
    flood = await flooding
    watching.cancel()
    served = sum(status == "200" and moment <= options.seconds for moment, status in flood.moments)
    refused = flood.statuses["503"]
    unsent = flood.statuses["unsent"]
    return {
        "asked_per_s": round(sum(flood.statuses.values()) / options.seconds, 1),
        "served_per_s": round(served / options.seconds, 2),
        "share_of_capacity": round(served / options.seconds / capacity, 3),
        "refused_with_503": refused,
        "share_of_503_with_retry_after": round(flood.with_retry_after / refused, 4) if refused else None,
        "unsent": unsent,
        "recovered_after_s": recovered_after_s(light),
        "memory_after_warm_up": memory.growth(warm_up_s=min(10.0, options.seconds / 3)),
        "memory": [(round(moment, 1), found) for moment, found in memory.samples[:: max(1, len(memory.samples) // 20)]],
        "flood": flood.figures(),
        "light": light.figures(),
        "per_second": dict(sorted(Counter(int(moment) for moment, status in flood.moments if status == "200").items())),
    }


def recovered_after_s(light: Tally) -> float:
    """Returns when the last refusal came, or the last answer that took over a second more than the middle one."""
    slow = statistics.median(light.seconds) + 1 if light.seconds else 0.0
    ends = [moment for moment, status in light.moments if status == "200"]
    late = [moment for moment, seconds in zip(ends, light.seconds, strict=True) if seconds > slow]
    refused = [moment for moment, status in light.moments if status != "200"]
    return round(max([*late, *refused], default=0.0), 2)

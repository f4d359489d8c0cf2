"""Bodies that are made to cost much: what each costs the service, and what they do to good clients beside them."""

from __future__ import annotations

import argparse
import asyncio
import gzip
import itertools
import sys
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load import Client, Connection, Question, Tally, closed_loop, request
from benchmarks.service.bundles import BINARY, make_videos, record_questions, write_random_bundle
from benchmarks.service.deployed import Deployed, deployed, watched
from tests.support.costly import costly_json, costly_records, empty_steps
from yt8m_ray.data.format.example import encode_example
from yt8m_ray.schema import VIDEO_FEATURES

_PAUSE_S = 0.02
"""Between two requests of a good client."""

_JSON = {"content-type": "application/json"}
_REPEATS = 5


def costly_requests() -> dict[str, bytes]:
    """Returns the requests by what they are; none of them may be answered."""
    predict, infer = "/v1/predict", "/v2/models/yt8m/infer"
    means = {name: np.full(size, np.nan, np.float32) for name, size in VIDEO_FEATURES.items()}
    zeros = bytes(2**26)
    packed = {"gzip": gzip.compress(zeros), "deflate": zlib.compress(zeros, 9)}
    made = {
        "not finite": (predict, BINARY, encode_example({"id": [b"nan"], **means})),
        "1 MiB of empty steps": (predict, BINARY, empty_steps(2**20)),
        "8 MiB of empty steps": (predict, BINARY, empty_steps(2**23)),
        **{f"record: {name}": (predict, BINARY, body) for name, body in costly_records(500_000).items()},
        **{f"JSON: {name}": (predict, _JSON, body) for name, body in costly_json(1_000_001).items()},
        **{f"tensors: {name}": (infer, _JSON, costly_json(1_000_001)[name]) for name in ("inputs", "data")},
        **{f"bomb: {name}": (predict, {**_JSON, "content-encoding": name}, body) for name, body in packed.items()},
    }
    return {name: request("POST", path, body, headers) for name, (path, headers, body) in made.items()}


def costly(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measures what each body costs, and good clients alone and beside others that send them over and over."""
    bundle = write_random_bundle(folder / "costly", options.bundle, seed=1)
    questions = record_questions(make_videos(options.videos, options.frames), [bundle])
    requests = costly_requests()
    with deployed({"a": bundle}, proxy=options.proxy) as service:
        asyncio.run(closed_loop(service.port, questions, connections=4, count=100))
        found: dict[str, Any] = {"refusals": {}}
        for name, data in requests.items():
            found["refusals"][name] = asyncio.run(_cost(service, data))
            print(f"{name}: {found['refusals'][name]}", file=sys.stderr, flush=True)
        for name, num_bad in (("alone", 0), ("beside them", options.clients), ("alone again", 0)):
            found[name] = asyncio.run(_measure(service, questions, requests, num_bad, options.seconds))
            print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    alone = {who: (found["alone"][who] + found["alone again"][who]) / 2 for who in ("healthz_p99_ms", "good_p99_ms")}
    found["times_of_alone"] = {who: round(found["beside them"][who] / alone[who], 2) for who in alone}
    return found


async def _cost(service: Deployed, data: bytes) -> dict[str, Any]:
    """Returns the status of a request, and the processor's time that it takes, in milliseconds."""
    connection, statuses = Connection(service.port), Counter[int]()
    before = _cpu_s(service)
    for _ in range(_REPEATS):
        statuses[(await connection.ask(data)).status] += 1
    connection.close()
    after = _cpu_s(service)
    times = {f"{who}_cpu_ms": round((after[who] - before[who]) / _REPEATS * 1e3, 1) for who in after}
    return {"kB": len(data) // 1000, "statuses": dict(statuses), **times}


def _cpu_s(service: Deployed) -> dict[str, float]:
    processes = {"replica": service.replicas(), "proxy": service.proxies()}
    return {who: sum(sum(each.cpu_times()[:2]) for each in found) for who, found in processes.items()}


async def _measure(
    service: Deployed, questions: list[Question], requests: Mapping[str, bytes], num_bad: int, seconds: float
) -> dict[str, Any]:
    """Lets a good client and a probe ask for some seconds, beside so many bad ones."""
    memory, statuses = watched(service), Counter[str]()
    good, probe = Client(service.port), Client(service.port)
    memory.sample()
    tasks = [
        asyncio.create_task(_ask_on(good, questions)),
        asyncio.create_task(_ask_on(probe, [Question(request("GET", "/healthz"))])),
        asyncio.create_task(memory.watch()),
        *(
            asyncio.create_task(_harm(service.port, list(requests.values()), start, statuses))
            for start in range(num_bad)
        ),
    ]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    samples = [sample for _, sample in memory.samples]
    return {
        **_figures("good", good.tally),
        **_figures("healthz", probe.tally),
        "bad_requests": dict(sorted(statuses.items())),
        "memory_mb": {
            title: {
                "before": samples[0][title] // 2**20,
                "after a third": samples[len(samples) // 3][title] // 2**20,
                "most": max(sample[title] for sample in samples) // 2**20,
                "at the end": samples[-1][title] // 2**20,
            }
            for title in samples[0]
        },
    }


def _figures(who: str, tally: Tally) -> dict[str, Any]:
    return {
        f"{who}_p50_ms": round(tally.quantile_ms(0.5), 2),
        f"{who}_p99_ms": round(tally.quantile_ms(0.99), 2),
        f"{who}_answered": len(tally.seconds),
        f"{who}_wrong_or_failed": tally.wrong + tally.failed,
    }


async def _ask_on(client: Client, questions: list[Question]) -> None:
    with client.timed():
        for question in itertools.cycle(questions):
            await client.ask(question)
            await asyncio.sleep(_PAUSE_S)


async def _harm(port: int, requests: list[bytes], start: int, statuses: Counter[str]) -> None:
    """Sends one bad request after the other, as fast as they are refused."""
    connection = Connection(port)
    for data in itertools.cycle(requests[start * 3 :] + requests[: start * 3]):
        try:
            statuses[str((await connection.ask(data)).status)] += 1
        except (OSError, EOFError) as error:
            statuses[type(error).__name__] += 1

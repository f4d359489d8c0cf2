"""Bodies that nobody should send, many of them: what the service answers, and whether it grows."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load import Connection, Reply, request
from benchmarks.service.bundles import BINARY, make_videos, to_record, write_random_bundle
from benchmarks.service.deployed import ADMIN_TOKEN, Deployed, Memory, deployed, watched
from benchmarks.service.mutations import mutate, mutate_json

_CONNECTIONS = 4
_WARM_UP = 0.2
"""Of the bodies: memory is compared with what it was after them."""

_INTERNALS = re.compile(rb"Traceback|File \\?\"|\.py\b|site-packages|0x[0-9a-f]{8}")


@dataclass
class Findings:
    """What was answered; `faults` are bodies, as hexadecimal digits, with what was wrong about their answers."""

    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[dict[str, str]] = field(default_factory=list)


def fuzz(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Sends mutated records and JSON, then lets schemathesis read the OpenAPI document."""
    bundle = write_random_bundle(folder / "fuzzed", "logistic", seed=1)
    with deployed({"a": bundle}, proxy=options.proxy) as service:
        found: dict[str, Any] = {}
        for kind, count in (("binary", options.binary), ("json", options.json)):
            if count:
                found[kind] = asyncio.run(_send_all(service, kind, count, options.seed))
                print(f"{kind}: {found[kind]}", file=sys.stderr, flush=True)
        if options.cases:
            found["schemathesis"] = run_schemathesis(service, options.cases, folder)
        return found


async def _send_all(service: Deployed, kind: str, count: int, seed: int) -> dict[str, Any]:
    memory = watched(service)
    warm_up = int(count * _WARM_UP)
    before = memory.sample()
    first = await send_mutated(service.port, kind, warm_up, seed=seed)
    warm = memory.sample()
    rest = await send_mutated(service.port, kind, count - warm_up, seed=seed + 1, memory=memory)
    after = memory.sample()
    statuses = first.statuses + rest.statuses
    return {
        "bodies": sum(statuses.values()),
        "statuses": dict(sorted(statuses.items())),
        "faults": (first.faults + rest.faults)[:10],
        "num_faults": len(first.faults) + len(rest.faults),
        "memory": {"before": before, "warm": warm, "after": after},
        "growth_after_warm_up": {title: round(after[title] / warm[title], 4) for title in warm if warm[title]},
    }


async def send_mutated(port: int, kind: str, count: int, *, seed: int, memory: Memory | None = None) -> Findings:
    """Sends so many mutated bodies on a few connections that are kept, and returns what was wrong with the answers."""
    videos = make_videos(8, 4, seed=seed)
    records = [to_record(video) for video in videos]
    found, remaining = Findings(), iter(range(count))

    async def send_on() -> None:
        connection = Connection(port)
        for index in remaining:
            rng = random.Random(f"{seed} {kind} {index}")
            if kind == "binary":
                body, headers = mutate(rng.choice(records), records, rng), BINARY
            else:
                body, headers = mutate_json(rng.choice(videos), rng), {"content-type": "application/json"}
            await _send(connection, body, headers, found)
            if memory is not None and index % 1000 == 0:
                memory.sample()
        connection.close()

    await asyncio.gather(*(send_on() for _ in range(_CONNECTIONS)))
    return found


async def _send(connection: Connection, body: bytes, headers: dict[str, str], found: Findings) -> None:
    try:
        async with asyncio.timeout(60):
            reply = await connection.ask(request("POST", "/v1/predict?top_k=3", body, headers))
    except (OSError, EOFError, TimeoutError) as error:
        found.statuses[type(error).__name__] += 1
        found.faults.append({"body": body.hex()[:20_000], "fault": type(error).__name__})
        return
    found.statuses[str(reply.status)] += 1
    fault = fault_of(reply)
    if fault is not None:
        found.faults.append({"body": body.hex()[:20_000], "fault": fault})


def fault_of(reply: Reply) -> str | None:
    """Returns what is wrong with an answer to anything: a 5xx but 503, an internal, an error of another shape."""
    shown = reply.body[:500].decode("utf-8", "replace")
    if reply.status >= 500 and reply.status != 503:
        return f"{reply.status}: {shown}"
    if reply.status == 200:
        return None
    if _INTERNALS.search(reply.body):
        return f"shows internals: {shown}"
    try:
        error = json.loads(reply.body)["error"]
        has_shape = set(error) == {"code", "message", "request_id"}
    except (ValueError, KeyError, TypeError):
        has_shape = False
    return None if has_shape else f"{reply.status} of another shape: {shown}"


def run_schemathesis(service: Deployed, least_cases: int, folder: Path) -> dict[str, Any]:
    """Runs schemathesis, again with other seeds until at least so many cases were tried, and returns what it found."""
    memory = watched(service)
    memory.sample()
    counts: Counter[str] = Counter()
    failures: list[str] = []
    for seed in range(1, 100):
        report = folder / f"schemathesis{seed}.ndjson"
        outcome = _schemathesis(service.port, seed, least_cases, report)
        cases = _cases(report)
        counts.update(cases)
        memory.sample()
        print(f"schemathesis: {counts.total()} cases", file=sys.stderr, flush=True)
        if outcome.returncode != 0:
            failures.append(outcome.stdout[-4000:] + outcome.stderr[-1000:])
        if not cases or counts.total() >= least_cases:
            break
    return {
        "cases": counts.total(),
        "statuses": dict(sorted(counts.items())),
        "failures": failures[:3],
        "memory": [found for _, found in memory.samples],
    }


def _schemathesis(port: int, seed: int, least_cases: int, report: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(_config(report.parent)), "run"]
    command += [f"http://127.0.0.1:{port}/openapi.json", f"--seed={seed}", f"--max-examples={max(1, least_cases // 4)}"]
    command += ["--checks=not_a_server_error,response_schema_conformance,content_type_conformance"]
    command += ["--continue-on-failure", "--phases=examples,coverage,fuzzing", "--suppress-health-check=all"]
    command += ["-H", f"authorization: Bearer {ADMIN_TOKEN}"]  # so that bodies of operators are read at all
    command += ["--generation-database=none", "--no-color", f"--report-ndjson-path={report}", "--warnings=off"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=report.parent)


def _config(folder: Path) -> Path:
    path = folder / "schemathesis.toml"
    path.write_text("", encoding="utf-8")
    return path


def _cases(report: Path) -> Counter[str]:
    """Returns how many requests were sent, by the status of their answers."""
    found: Counter[str] = Counter()
    if report.exists():
        for line in report.read_text(encoding="utf-8").splitlines():
            found.update(re.findall(r'"status_code": ?(\d+)', line))
    return found

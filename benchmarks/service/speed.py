"""What the service adds to its model (`overhead`), and the same model behind other servers (`peers`)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import torch

from benchmarks.load import Question, closed_loop
from benchmarks.measure import ROOT, run_pinned
from benchmarks.service.bundles import make_videos, mlflow_questions, record_questions, write_random_bundle
from benchmarks.service.deployed import deployed, free_port, status_of
from tests.e2e.processes import Command
from yt8m_ray.inference.predictor import Predictor

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
_BATCH_SIZES = (1, 4, 8, 16, 32)


def overhead(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measures each kind of bundle through the service and in a bare loop, in alternating rounds."""
    return {kind: _overhead_of(kind, options, folder) for kind in options.bundles}


def _overhead_of(kind: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    bundle = write_random_bundle(folder / kind, kind, seed=1)
    questions = record_questions(make_videos(options.videos, options.frames), [bundle])
    bare_command = [sys.executable, str(ROOT / "benchmarks/serving.py"), "bare", str(bundle)]
    bare_command += [f"--frames={options.frames}", f"--seconds={options.seconds}"]
    rounds: list[dict[str, float]] = []
    wrong = 0
    with (
        deployed({"a": bundle}, proxy=options.proxy, cores=options.cores) as service,
        _plain(bundle, options.cores, folder) as plain_port,
    ):
        for _ in range(options.rounds):
            bare = run_pinned(bare_command, cores=_cores(options.cores))
            # What any server costs on this machine: one process, no proxy, no queue.
            plain = asyncio.run(closed_loop(plain_port, questions[:1], connections=1, seconds=options.seconds))
            # The bare loop asks about the same one video over and over.
            before = _model_stage(service.port)
            alone = asyncio.run(closed_loop(service.port, questions[:1], connections=1, seconds=options.seconds))
            seconds, count = (after - start for after, start in zip(_model_stage(service.port), before, strict=True))
            many = asyncio.run(
                closed_loop(service.port, questions, connections=options.connections, seconds=options.seconds)
            )
            wrong += sum(each.wrong + each.failed for each in (plain, alone, many))
            rounds.append(
                {
                    "bare_p50_ms": bare["p50_ms"],
                    "service_p50_ms": alone.quantile_ms(0.5),
                    "added_ms": alone.quantile_ms(0.5) - bare["p50_ms"],
                    # The model of a service that waits between requests is slower than one in a loop.
                    "model_in_service_ms": seconds / count * 1e3,
                    "plain_p50_ms": plain.quantile_ms(0.5),
                    "added_to_model_in_service_ms": alone.quantile_ms(0.5) - seconds / count * 1e3,
                    "bare_per_s": bare["per_s"],
                    "bare_batch": bare["batch"],
                    "service_per_s": many.per_s,
                    "share": many.per_s / bare["per_s"],
                    "generator_cpu": many.cpu_s / many.wall_s,
                }
            )
            print(f"{kind}: {_rounded(rounds[-1])}", file=sys.stderr, flush=True)
    middle = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    return {"wrong_or_failed": wrong, "median": _rounded(middle), "rounds": [_rounded(found) for found in rounds]}


def _model_stage(port: int) -> tuple[float, float]:
    """Returns the seconds that requests have spent in the model so far, and their number."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    found = {
        kind: [line for line in lines if f"_{kind}{{" in line and 'stage="model"' in line] for kind in ("sum", "count")
    }
    total, count = (sum(float(line.rpartition(" ")[2]) for line in found[kind]) for kind in ("sum", "count"))
    return total, count


def bare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Asks a predictor without any server: p50 of one video, and the most videos a second at any batch size."""
    torch.set_num_threads(1)
    predictor = Predictor.from_path(options.bundle)
    videos = make_videos(max(_BATCH_SIZES), options.frames)
    predictor.predict(videos[:1])
    took = _timed(predictor, videos[:1], options.seconds)
    rates = {}
    for size in _BATCH_SIZES:
        seconds = _timed(predictor, videos[:size], options.seconds / len(_BATCH_SIZES))
        rates[size] = size * len(seconds) / sum(seconds)
    best_size = max(rates, key=lambda size: rates[size])
    return {"p50_ms": statistics.median(took) * 1e3, "per_s": rates[best_size], "batch": best_size}


def _timed(predictor: Predictor, videos: list[Any], at_least_s: float) -> list[float]:
    took: list[float] = []
    while not took or sum(took) < at_least_s:
        started = time.perf_counter()
        predictor.predict(videos)
        took.append(time.perf_counter() - started)
    return took


def peers(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Asks the service, `mlflow models serve` and a plain FastAPI application for the same answers, in turns."""
    return {kind: _peers_of(kind, options, folder) for kind in options.bundles}


def _peers_of(kind: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    bundle = write_random_bundle(folder / f"peers_{kind}", kind, seed=1)
    videos = make_videos(options.videos, options.frames)
    records = record_questions(videos, [bundle])
    found: dict[str, list[dict[str, Any]]] = {"service": [], "plain": [], "mlflow": []}
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(deployed({"a": bundle}, proxy=options.proxy, cores=options.cores))
        sides: dict[str, tuple[int, list[Question]]] = {
            "service": (service.port, records),
            "plain": (stack.enter_context(_plain(bundle, options.cores, folder)), records),
            "mlflow": (stack.enter_context(_mlflow(bundle, options.cores, folder)), mlflow_questions(videos, bundle)),
        }
        for port, questions in sides.values():
            asyncio.run(closed_loop(port, questions, connections=1, count=2))
        for _ in range(options.rounds):
            for side, (port, questions) in sides.items():
                loop = closed_loop(port, questions, connections=options.connections, seconds=options.seconds)
                found[side].append(asyncio.run(loop).figures())
                print(f"{kind} {side}: {found[side][-1]}", file=sys.stderr, flush=True)
    return {
        side: {
            "per_s": statistics.median(each["per_s"] for each in rounds),
            "p50_ms": statistics.median(each["p50_ms"] for each in rounds),
            "p99_ms": statistics.median(each["p99_ms"] for each in rounds),
            "wrong_or_failed": sum(each["wrong"] + each["failed"] for each in rounds),
            "rounds": rounds,
        }
        for side, rounds in found.items()
    }


@contextlib.contextmanager
def _plain(bundle: Path, cores: str, folder: Path) -> Any:
    port = free_port()
    script = str(ROOT / "benchmarks/peers/plain_service.py")
    with Command(*_pin(cores), sys.executable, script, str(bundle), str(port), folder=folder) as command:
        command.wait_until(lambda: asyncio.run(status_of(port, "/healthz")) == 200)
        yield port


@contextlib.contextmanager
def _mlflow(bundle: Path, cores: str, folder: Path) -> Any:
    from yt8m_ray.inference.mlflow_model.pyfunc import save_pyfunc_model

    port, model = free_port(), folder / f"pyfunc_{bundle.name}"
    save_pyfunc_model(bundle, model)
    tools = Path(sys.executable).parent
    serve = [str(tools / "mlflow"), "models", "serve", "-m", str(model), "--env-manager", "local"]
    # MLflow finds its server by name, as in an activated environment.
    environment = {**_ONE_THREAD, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    address = ["-h", "127.0.0.1", "-p", str(port)]
    with Command(*_pin(cores), *serve, *address, folder=folder, environment=environment) as command:
        command.wait_until(lambda: asyncio.run(status_of(port, "/ping")) == 200)
        yield port


def _pin(cores: str) -> list[str]:
    return ["taskset", "--cpu-list", cores] if cores else []


def _cores(cores: str) -> list[int]:
    return [int(core) for core in cores.split(",")] if cores else sorted(os.sched_getaffinity(0))


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    rounded: dict[str, float] = json.loads(json.dumps(figures), parse_float=lambda text: round(float(text), 3))
    return rounded

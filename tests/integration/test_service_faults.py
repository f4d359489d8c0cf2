"""The service when replicas die, models change and clients misbehave; full counts: benchmarks/serving.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from benchmarks.load import RETRIED, Connection, Question, Reply, Retry, Tally, open_loop, request
from benchmarks.service.bundles import (
    make_videos,
    record_questions,
    write_damaged_bundle,
    write_random_bundle,
)
from benchmarks.service.deployed import ADMIN_TOKEN, REPLICA_TITLE, free_port
from benchmarks.service.fuzz import send_mutated
from benchmarks.service.slow import BODY_TIMEOUT_S, bad_clients, endure

CONFIG = Path(__file__).resolve().parents[2] / "serve" / "config.yaml"
RATE = 20.0

REFUSED_SOON = ("half a body, then gone", "body longer than told", "length below zero", "two lengths", "1 GB")
"""Kinds of bad clients that both proxies refuse, at once or when the time of a body is up."""


@dataclass(frozen=True)
class Running:
    """Two replicas behind a port, and questions whose answers by either of two models are known."""

    port: int
    questions: list[Question]

    async def promote(self, name: str) -> Reply:
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}", "content-type": "application/json"}
        body = json.dumps({"model": name}).encode()
        return await Connection(self.port).ask(request("POST", "/v1/admin/promote", body, headers))

    def replicas(self) -> list[psutil.Process]:
        """Returns the replicas: Ray's processes descend from this one."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith(REPLICA_TITLE):
                    found.append(process)
        return found


@pytest.fixture(scope="module")
def running(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    folder = tmp_path_factory.mktemp("faults")
    bundles = {name: write_random_bundle(folder / name, "logistic", seed=seed) for seed, name in enumerate("ab", 1)}
    questions = record_questions(make_videos(4, 10), list(bundles.values()))
    places = {**bundles, "damaged": write_damaged_bundle(folder / "damaged", bundles["b"])}
    tree: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    (folder / "operators").write_text(ADMIN_TOKEN, encoding="utf-8")
    tree["http_options"]["port"] = free_port()
    tree["applications"][0]["args"] |= {"model": str(bundles["a"]), "admin_tokens_file": str(folder / "operators")}
    deployment = tree["applications"][0]["deployments"][0]
    deployment["num_replicas"] = 2
    deployment["ray_actor_options"]["num_cpus"] = 0.5
    models = {name: str(path) for name, path in places.items()}
    deployment["user_config"] |= {"models": models, "body_timeout_s": BODY_TIMEOUT_S}
    config = ServeDeploySchema.model_validate(tree)
    serve.start(http_options=config.http_options.model_dump(), proxy_location=config.proxy_location)
    try:
        client = _get_global_client()
        assert client is not None
        client.deploy_apps(config, _blocking=True)  # what `serve run` calls
        yield Running(tree["http_options"]["port"], questions)
    finally:
        serve.shutdown()


async def ask_through_faults(running: Running, retry: Retry, count: int) -> tuple[Tally, list[int]]:
    """Asks while a replica is killed and models are changed; returns the statuses of the changes too."""

    async def do_harm() -> list[int]:
        statuses = []
        for name in ("b", "damaged"):
            statuses.append((await running.promote(name)).status)
        running.replicas()[0].kill()
        return statuses

    harm = asyncio.create_task(do_harm())
    tally = await open_loop(running.port, running.questions, per_s=RATE, count=count, retry=retry)
    return tally, await harm


def test_no_answer_is_wrong_and_no_patient_client_fails_when_a_replica_dies_and_models_change(running: Running) -> None:
    # Serve's own proxy answers 500 to what a killed replica had under way; HAProxy asks another replica.
    patient = Retry(attempts=20, backoff_s=0.2, after=(*RETRIED, "500"))
    tally, changes = asyncio.run(ask_through_faults(running, patient, count=300))
    assert changes == [200, 409]
    assert (tally.wrong, tally.failed, len(tally.seconds)) == (0, 0, 300), tally.figures()


@pytest.mark.parametrize("name", REFUSED_SOON)
def test_a_bad_client_is_refused_and_the_service_goes_on(running: Running, name: str) -> None:
    client = bad_clients()[name]

    async def ask_beside() -> tuple[list[str], Tally]:
        ends = asyncio.gather(*(endure(running.port, client) for _ in range(min(5, client.count))))
        tally = await open_loop(running.port, running.questions, per_s=RATE, count=10)
        return [end for end, _ in await ends], tally

    ends, tally = asyncio.run(ask_beside())
    assert set(ends) <= set(client.allowed)
    assert (tally.wrong, tally.failed) == (0, 0), tally.figures()


def test_a_body_that_does_not_come_is_refused_in_time(running: Running) -> None:
    end, seconds = asyncio.run(endure(running.port, bad_clients()["half a body, then silent"]))
    assert (end, seconds >= BODY_TIMEOUT_S) == ("408", True)


@pytest.mark.parametrize("kind", ["binary", "json"])
def test_damaged_bodies_are_refused_without_internals(running: Running, kind: str) -> None:
    found = asyncio.run(send_mutated(running.port, kind, 200, seed=1))
    assert found.faults == []
    assert found.statuses.keys() >= {"200", "400"}

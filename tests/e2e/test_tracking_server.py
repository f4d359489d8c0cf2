"""A run whose MLflow server stops answering, dies and comes back while it trains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.e2e.conftest import NUM_CLASSES, Shards, StartVerb, free_port
from yt8m_ray.tracking.history import read_curves


class Server:
    """`mlflow server` over a store that outlives it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        store = [f"--backend-store-uri=sqlite:///{self._folder / 'store.db'}"]
        store += [f"--artifacts-destination={self._folder / 'artifacts'}"]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", f"--port={self._port}", "--workers=1", *store],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, number)
            if number == signal.SIGKILL:
                self._process.wait()
                self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.send(signal.SIGKILL)


@pytest.mark.soak
def test_a_run_goes_on_without_its_server_which_has_everything_in_the_end(
    server: Server, start_verb: StartVerb, video_shards: Shards, tmp_path: Path
) -> None:
    run_path = tmp_path / "runs" / "run"
    settings = f"data.num_classes={NUM_CLASSES} train.batch_size=4 train.num_epochs=60 train.log_every_steps=1"
    settings += f" model.name=moe run.name=run output={run_path.parent} tracking.uri={server.uri}"

    def num_lines() -> int:
        path = run_path / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def has_its_run() -> bool:
        path = run_path / "mlflow.json"  # which is there when MLflow has had something
        return path.exists() and '"run_id": ""' not in path.read_text()

    paths = [f"data.train={video_shards.train}", f"data.validation={video_shards.validation}"]
    with start_verb("train", *settings.split(), *paths) as command:  # the server is not there at the start
        command.wait_until(lambda: num_lines() > 30)
        server.start()
        command.wait_until(has_its_run)
        server.send(signal.SIGSTOP)
        before = num_lines()
        command.wait_until(lambda: num_lines() > before + 100)
        server.send(signal.SIGKILL)
        command.wait_until(lambda: num_lines() > before + 150)
        server.start()
        outcome = command.wait(timeout_s=400)

    assert outcome.code == 0, outcome.stderr
    assert "MLflow does not answer, the run goes on without it" in outcome.stderr
    client = MlflowClient(server.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("yt8m_ray").experiment_id])  # type: ignore[union-attr]
    assert run.info.status == "FINISHED"
    for name in ("train/loss", "validation/gap"):
        steps, values = read_curves(run_path)[name]
        history = {entry.step: entry.value for entry in client.get_metric_history(run.info.run_id, name)}
        assert history == dict(zip(steps.tolist(), values.tolist(), strict=True))
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"checkpoint", "report"}

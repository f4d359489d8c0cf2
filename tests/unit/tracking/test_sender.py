from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.tracking_server import TrackingServer, tracking_server
from yt8m_ray.errors import ConfigError
from yt8m_ray.tracking.history import History
from yt8m_ray.tracking.runs import TrackingError
from yt8m_ray.tracking.sender import RetryLimits, RunFacts, Sender

LIMITS = RetryLimits(idle_s=0.05, longest_s=0.05, server_s=3.0, close_s=3.0, close_retry_s=0.2)


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TrackingServer]:
    with tracking_server(tmp_path / "artifacts") as server:
        yield server


@pytest.fixture
def run_path(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def sender_of(uri: str, run_path: Path, *, run_id: str = "") -> Sender:
    facts = RunFacts("e", "run", {"model.name": "moe"}, artifact_path=run_path.parent / "artifacts")
    return Sender(uri, run_path, facts, run_id=run_id, limits=LIMITS)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_values_artifacts_and_the_end_arrive(server: TrackingServer, run_path: Path) -> None:
    (run_path / "report.md").write_text("good")
    sender = sender_of(server.uri, run_path)
    sender.start()
    history = History(run_path)
    for step in range(3):
        history.append({"train/loss": 1.0 / (step + 1)}, step)
    sender.add_artifacts(run_path / "report.md", artifact_path="report")
    sender.close("FINISHED")

    run = server.runs[sender.run_id]
    assert run["params"] == {"model.name": "moe"}
    assert server.metrics(sender.run_id) == {("train/loss", 0, 1.0), ("train/loss", 1, 0.5), ("train/loss", 2, 1 / 3)}
    assert (server.folder / sender.run_id / "report" / "report.md").read_text() == "good"
    assert run["status"] == "FINISHED"


@pytest.mark.parametrize("mood", ["503", "hangs", "closes"])
def test_what_a_server_did_not_take_arrives_when_it_is_well_again(
    server: TrackingServer, run_path: Path, mood: str, caplog: pytest.LogCaptureFixture
) -> None:
    sender = sender_of(server.uri, run_path)
    sender.start()
    server.mood = mood  # type: ignore[assignment]
    for step in range(100):
        History(run_path).append({"train/loss": 0.5}, step)
    wait_until(lambda: "does not answer" in caplog.text)
    server.mood = "well"
    server.well_again.set()
    sender.close("FINISHED")

    assert len(server.metrics(sender.run_id)) == 100
    assert server.runs[sender.run_id]["status"] == "FINISHED"


def test_a_server_that_is_away_is_told_of_once_with_the_file_that_keeps_the_values(
    server: TrackingServer, run_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sender = sender_of(server.uri, run_path)
    sender.start()
    server.mood = "closes"
    before = server.num_requests
    for step in range(10):
        History(run_path).append({"train/loss": 0.5}, step)
    wait_until(lambda: server.num_requests > before + 3)
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    sender.close("FINISHED")

    assert len(told) == 1
    assert server.uri in told[0] and str(run_path / "metrics.jsonl") in told[0]


def test_a_server_that_is_down_is_told_with_the_reason_alone(run_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    sender = sender_of(uri, run_path)
    sender.start()
    sender.close("KILLED")

    reason = "Failed to establish a new connection: [Errno 111] Connection refused"
    assert f"the run goes on without it: tracking.uri: {uri}: {reason}. What it logs" in caplog.text


def test_a_run_begins_without_a_server_and_is_made_there_when_it_comes(tmp_path: Path, run_path: Path) -> None:
    port = free_port()
    sender = sender_of(f"http://127.0.0.1:{port}", run_path)
    sender.start()
    assert sender.run_id == ""
    History(run_path).append({"train/loss": 0.5}, 1)

    with tracking_server(tmp_path / "artifacts", port=port) as server:
        wait_until(lambda: sender.run_id)
        sender.close("FINISHED")
        assert server.metrics(sender.run_id) == {("train/loss", 1, 0.5)}


@pytest.mark.parametrize("ending", ["closes", "hangs"])
def test_the_end_is_not_held_up_and_the_next_start_sends_the_rest(
    server: TrackingServer, run_path: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    sender = sender_of(server.uri, run_path)
    sender.start()
    server.mood = ending  # type: ignore[assignment]
    History(run_path).append({"validation/gap": 0.5}, 9)
    (run_path / "report.md").write_text("good")
    sender.add_artifacts(run_path / "report.md")
    sender.close("FINISHED")  # returns, although the server answers nothing before the lines below
    assert "is sent when the same command is started again" in caplog.text

    server.mood = "well"
    server.well_again.set()
    again = sender_of(server.uri, run_path)
    again.send_the_rest()

    assert again.run_id == sender.run_id

    assert len(server.runs) == 1
    assert server.metrics(sender.run_id) == {("validation/gap", 9, 0.5)}
    assert server.runs[sender.run_id]["status"] == "FINISHED"
    assert (server.folder / sender.run_id / "report.md").exists()


def test_an_ended_run_that_was_sent_asks_nobody(server: TrackingServer, run_path: Path) -> None:
    sender = sender_of(server.uri, run_path)
    sender.start()
    sender.close("FINISHED")
    before = server.num_requests

    again = sender_of(server.uri, run_path)
    again.send_the_rest()

    assert again.run_id == sender.run_id
    assert server.num_requests == before


def test_a_continued_run_goes_on_where_the_last_start_ended(server: TrackingServer, run_path: Path) -> None:
    for step in (1, 2):
        sender = sender_of(server.uri, run_path)
        sender.start()
        History(run_path).append({"train/loss": 0.5}, step)
        sender.close("KILLED")

    assert len(server.runs) == 1
    assert server.metrics(sender.run_id) == {("train/loss", 1, 0.5), ("train/loss", 2, 0.5)}


def test_a_store_that_lost_the_run_gets_all_of_it_again(server: TrackingServer, run_path: Path) -> None:
    first = sender_of(server.uri, run_path)
    first.start()
    History(run_path).append({"train/loss": 0.5}, 1)
    first.close("KILLED")
    del server.runs[first.run_id]
    server.runs["another"] = {"id": "another", "status": "FINISHED", "metrics": set(), "params": {}, "tags": []}

    second = sender_of(server.uri, run_path)
    second.start()
    second.close("FINISHED")

    assert second.run_id != first.run_id
    assert server.metrics(second.run_id) == {("train/loss", 1, 0.5)}


@pytest.mark.parametrize("mood", ["forbids", "no_mlflow"])
def test_a_new_run_is_refused_where_something_else_answers(server: TrackingServer, run_path: Path, mood: str) -> None:
    server.mood = mood  # type: ignore[assignment]

    with pytest.raises(TrackingError, match=rf"^tracking\.uri: {server.uri}: "):
        sender_of(server.uri, run_path).start()


def test_a_continued_run_is_not_refused(server: TrackingServer, run_path: Path) -> None:
    sender = sender_of(server.uri, run_path)
    sender.start()
    sender.close("KILLED")
    server.mood = "forbids"

    again = sender_of(server.uri, run_path)
    again.start()
    again.close("FINISHED")


def test_a_host_that_nobody_knows_is_refused(run_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^tracking\.uri: http://no-such-host\.invalid:5000: no such host"):
        sender_of("http://no-such-host.invalid:5000", run_path).start()


@pytest.mark.parametrize("uri", ["mlruns", "postgres://host/store"])
def test_a_store_that_mlflow_does_not_have_is_refused(uri: str, run_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^tracking\.uri: expected an address .*, found '{uri}'"):
        sender_of(uri, run_path).start()

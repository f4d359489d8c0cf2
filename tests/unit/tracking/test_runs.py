from __future__ import annotations

import math
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from yt8m_ray.errors import ConfigError
from yt8m_ray.tracking.runs import (
    PARENT_TAG,
    Tracker,
    TrackingError,
    child_runs,
    default_uri,
    set_tags,
)


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    output = tmp_path_factory.mktemp("runs")
    params = {"model.num_clusters": 8, "data.train": "x" * 10_000, **{f"many.key_{i}": i for i in range(150)}}
    return Tracker.start(
        default_uri(output), experiment="test", run_name="one", params=params, artifact_path=output / "mlartifacts"
    )


def test_parameters_have_dotted_keys(tracker: Tracker) -> None:
    params = MlflowClient(tracker.uri).get_run(tracker.run_id).data.params

    assert params["model.num_clusters"] == "8"
    assert params["many.key_149"] == "149"


def test_metrics_keep_their_steps_and_leave_out_what_is_not_finite(tracker: Tracker) -> None:
    tracker.log_metrics({"validation/gap": 0.25, "train/loss": math.nan}, step=3)
    tracker.log_metrics({"validation/gap": 0.5}, step=7)

    client = MlflowClient(tracker.uri)
    history = client.get_metric_history(tracker.run_id, "validation/gap")
    assert [(entry.step, entry.value) for entry in history] == [(3, 0.25), (7, 0.5)]
    assert "train/loss" not in client.get_run(tracker.run_id).data.metrics


def test_folders_and_files_become_artifacts(tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")

    tracker.log_artifacts(tmp_path / "folder", artifact_path="checkpoint")
    tracker.log_artifacts(tmp_path / "folder" / "a.txt")

    client = MlflowClient(tracker.uri)
    assert [item.path for item in client.list_artifacts(tracker.run_id, "checkpoint")] == ["checkpoint/a.txt"]
    assert "a.txt" in [item.path for item in client.list_artifacts(tracker.run_id)]


def child(tracker: Tracker, parent: str, name: str, **params: object) -> Tracker:
    return Tracker.start(
        tracker.uri,
        experiment="test",
        run_name=name,
        params=params,
        artifact_path=Path(tracker.uri.removeprefix("sqlite:///")).parent,
        key=f"{parent}/{name}",
        tags={PARENT_TAG: parent, "color": "red"},
    )


def test_the_runs_below_another_have_their_parameters_tags_and_curves(tracker: Tracker) -> None:
    parent = tracker.run_id
    first, second = (child(tracker, parent, name, rate=rate) for name, rate in (("a", 0.5), ("b", 0.25)))
    first.log_history([(time, step, {"validation/gap": step / 10}) for time, step in ((3, 1), (2, 2), (1, 3))])
    second.log_metrics({"train/loss": 1.0}, step=1)
    child(tracker, first.run_id, "c")  # below the first: not a child of the parent

    views = child_runs(tracker.uri, parent, metric="validation/gap")

    assert [view.params for view in views] == [{"rate": "0.5"}, {"rate": "0.25"}]
    assert [view.tags["color"] for view in views] == ["red", "red"]
    assert [view.curve for view in views] == [[0.1, 0.2, 0.3], []]


def test_a_run_that_was_started_before_keeps_its_tags(tracker: Tracker) -> None:
    first, again = (child(tracker, "0" * 32, "d") for _ in range(2))

    assert again.run_id == first.run_id
    assert MlflowClient(tracker.uri).get_run(again.run_id).data.tags["color"] == "red"


def test_the_runs_below_one_that_is_not_there_cannot_be_asked_for(tracker: Tracker) -> None:
    with pytest.raises(TrackingError, match="not found") as caught:
        child_runs(tracker.uri, "0" * 32, metric="validation/gap")
    assert not caught.value.is_temporary


def test_tags_are_set_replaced_and_cut(tracker: Tracker) -> None:
    set_tags(tracker.uri, tracker.run_id, {"status": "running", "cause": "x" * 9000})
    set_tags(tracker.uri, tracker.run_id, {"status": "completed"})

    tags = MlflowClient(tracker.uri).get_run(tracker.run_id).data.tags
    assert (tags["status"], len(tags["cause"])) == ("completed", 5000)


def test_tags_of_a_run_that_is_not_there_are_told(tracker: Tracker) -> None:
    with pytest.raises(TrackingError, match="not found"):
        set_tags(tracker.uri, "0" * 32, {"a": "b"})


@pytest.mark.soak  # MLflow waits 20 s for the lock
def test_a_locked_store_may_take_the_same_later(tracker: Tracker) -> None:
    lock = sqlite3.connect(tracker.uri.removeprefix("sqlite:///"))
    lock.execute("begin exclusive")
    with pytest.raises(TrackingError, match="database is locked") as caught:
        tracker.log_history([(1, 5, {"train/rate": 0.5})])
    lock.rollback()
    assert caught.value.is_temporary

    tracker.log_history([(1, 5, {"train/rate": 0.5})])
    tracker.log_history([(1, 5, {"train/rate": 0.5})])

    assert len(MlflowClient(tracker.uri).get_metric_history(tracker.run_id, "train/rate")) == 1


def test_a_store_on_a_full_disk_may_take_the_same_later(tracker: Tracker) -> None:
    metrics = {f"many/{number}": 0.5 for number in range(3000)}
    size = Path(tracker.uri.removeprefix("sqlite:///")).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(TrackingError, match="disk") as caught:
            tracker.log_history([(1, 5, metrics)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.is_temporary

    tracker.log_history([(1, 5, metrics)])

    assert metrics.items() <= MlflowClient(tracker.uri).get_run(tracker.run_id).data.metrics.items()


def test_a_run_that_ended_can_be_continued(tracker: Tracker) -> None:
    tracker.finish("FAILED")
    assert MlflowClient(tracker.uri).get_run(tracker.run_id).info.status == "FAILED"

    again = Tracker.resume(tracker.uri, tracker.run_id)

    assert again is not None
    assert MlflowClient(tracker.uri).get_run(tracker.run_id).info.status == "RUNNING"


def test_runs_that_start_at_once_make_one_store(tmp_path: Path) -> None:
    start = (
        "import sys; from pathlib import Path; from yt8m_ray.tracking.runs import Tracker, TrackingError, default_uri; "
        "Tracker.start(default_uri(sys.argv[1]), experiment='e', run_name='r', params={}, artifact_path=Path('a'))"
    )

    processes = [subprocess.Popen([sys.executable, "-c", start, str(tmp_path)]) for _ in range(2)]

    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    client = MlflowClient(default_uri(tmp_path))
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_a_run_that_the_store_lost_is_not_continued(tracker: Tracker) -> None:
    assert Tracker.resume(tracker.uri, "0" * 32) is None


@pytest.mark.parametrize("uri", ["mlruns", "postgres://host/store"])
def test_a_store_that_mlflow_does_not_have_names_the_key(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^tracking\.uri: expected an address .*, found '{uri}'"):
        Tracker.start(uri, experiment="test", run_name="one", params={}, artifact_path=tmp_path)


def test_a_store_that_was_removed_is_told_by_what_sqlite_says(tmp_path: Path) -> None:
    """SQLAlchemy begins with advice to programmers; what the database said comes after it."""
    uri = default_uri(tmp_path / "runs")
    tracker = Tracker.start(uri, experiment="test", run_name="one", params={}, artifact_path=tmp_path)
    (tmp_path / "runs" / "mlflow.db").unlink()

    with pytest.raises(TrackingError, match=r"mlflow\.db: \(sqlite3\.OperationalError\)"):
        tracker.log_metrics({"validation/gap": 0.25}, step=3)

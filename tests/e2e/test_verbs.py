"""The verbs in the order in which a user needs them, on one cluster behind a token."""

from __future__ import annotations

import csv
import glob
import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from tests.e2e.conftest import BIN, NUM_CLASSES, Head, RunVerb, Shards, StartVerb, free_port, is_listening
from tests.e2e.processes import Command, Outcome
from tests.e2e.service import ask, wait_until_healthy, write_config

NUM_VALIDATION = 48


@dataclass(frozen=True)
class Submitted:
    """A training job that `ray job submit` ran on the cluster."""

    outcome: Outcome
    output: Path

    @property
    def checkpoint(self) -> Path:
        """The last line that the job wrote to stdout, before what the submitting program says about the job."""
        paths = [line for line in self.outcome.stdout.splitlines() if line.startswith(str(self.output / "run"))]
        return Path(paths[-1])


@pytest.fixture(scope="module")
def submitted(head: Head, frame_shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    output = tmp_path_factory.mktemp("submitted")
    settings = "run.name=run model.name=netvlad model.num_clusters=4 model.hidden_dim=16"
    settings += f" train.batch_size=16 train.num_epochs=2 data.num_classes={NUM_CLASSES}"
    settings += " data.features.rgb=1024 data.features.audio=128"
    paths = [f"output={output}", f"data.train={frame_shards.train}", f"data.validation={frame_shards.validation}"]
    verb = ["python", "-m", "jobs.train", *settings.split(), *paths]
    # A cluster's environment has no checkout in it: what is imported comes with the working directory.
    environment = {**head.environment, "PYTHONPATH": ""}
    submit = [str(BIN / "ray"), "job", "submit", "--submission-id=train-once", "--working-dir=.", "--", *verb]
    with Command(*submit, folder=output, environment=environment) as command:
        return Submitted(command.wait(), output)


@pytest.fixture(scope="module")
def checkpoint(submitted: Submitted) -> str:
    assert submitted.outcome.code == 0, submitted.outcome.stdout + submitted.outcome.stderr
    return str(submitted.checkpoint)


@pytest.fixture(scope="module")
def bundle(run_verb: RunVerb, head: Head, checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "bundle"
    config = folder.with_name("export.yaml")
    config.write_text(f"members: [{{checkpoint: {checkpoint}}}, {{checkpoint: {checkpoint}, weight: 2}}]\n")
    overrides = (f"output={folder}", "transform.min_elements=100")
    outcome = run_verb("export", str(config), *overrides, **head.environment)
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout == f"{folder}\n"
    return folder


def test_a_submitted_job_ends_with_its_best_checkpoint(submitted: Submitted, checkpoint: str) -> None:
    names = {path.name for path in submitted.checkpoint.iterdir()}
    tensors = {f"{name}.safetensors" for name in ("model", "state", "validation")}
    assert names == {"config.yaml", "manifest.json", *tensors}


def test_a_submitted_job_is_in_the_dashboards_list(submitted: Submitted, head: Head) -> None:
    jobs = {job["submission_id"]: job for job in json.loads(head.get("/api/jobs/")) if job["submission_id"]}
    assert jobs["train-once"]["status"] == "SUCCEEDED"
    assert "jobs.train" in jobs["train-once"]["entrypoint"]


def test_a_submitted_job_is_in_mlflow_under_its_output(submitted: Submitted) -> None:
    (run,) = MlflowClient(f"sqlite:///{submitted.output / 'mlflow.db'}").search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert run.data.params["model.num_clusters"] == "4"
    assert run.data.metrics["validation/num_videos"] == NUM_VALIDATION


@pytest.mark.soak
def test_a_submitted_job_that_fails_fails_the_submission(head: Head, tmp_path: Path) -> None:
    verb = ["python", "-m", "jobs.train", "model.name=moe", "run.name=x", "data.train=/no", f"output={tmp_path}"]
    submit = [str(BIN / "ray"), "job", "submit", "--working-dir=.", "--", *verb]
    with Command(*submit, folder=tmp_path, environment={**head.environment, "PYTHONPATH": ""}) as command:
        outcome = command.wait()
    assert outcome.code == 1
    assert "error: data.train: no file matches '/no'" in outcome.stdout


def test_evaluation_repeats_the_validation_of_training(
    run_verb: RunVerb, head: Head, submitted: Submitted, checkpoint: str, frame_shards: Shards
) -> None:
    outcome = run_verb("evaluate", checkpoint, f"data.test={frame_shards.validation}", **head.environment)

    assert outcome.code == 0, outcome.stderr
    metrics = json.loads(outcome.stdout)
    assert list(metrics) == [
        "num_videos", "gap", "hit_at_1", "perr", "mean_ap", "mean_ap_num_classes", "loss",
        "num_unlabelled", "num_rejected", "rejected", "videos_per_s",
    ]  # fmt: skip
    trained = json.loads((Path(checkpoint) / "manifest.json").read_text())["metrics"]
    assert metrics["num_videos"] == NUM_VALIDATION
    assert metrics["gap"] == pytest.approx(trained["validation/gap"], abs=1e-6)


def test_predictions_are_the_published_csv_and_the_same_as_parquet(
    run_verb: RunVerb, head: Head, checkpoint: str, frame_shards: Shards, tmp_path: Path
) -> None:
    for name in ("p.csv", "p.parquet"):
        output = str(tmp_path / name)
        arguments = (checkpoint, frame_shards.validation, "--output", output, "--top-k", "5")
        outcome = run_verb("predict", *arguments, **head.environment)
        assert (outcome.code, outcome.stdout) == (0, f"{output}\n"), outcome.stderr

    text = (tmp_path / "p.csv").read_bytes().decode()
    assert re.fullmatch(r"VideoId,LabelConfidencePairs\n([\w-]+,\d+ [\d.e-]+( \d+ [\d.e-]+){4}\n)+", text)
    rows = list(csv.reader(text.splitlines()[1:]))
    table = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert len(rows) == len(table) == NUM_VALIDATION
    for (video_id, pairs), row in zip(rows, table, strict=True):
        class_ids, scores = pairs.split(" ")[0::2], pairs.split(" ")[1::2]
        assert video_id == row["video_id"]
        assert class_ids == [str(class_id) for class_id in row["class_ids"]]
        assert scores == [f"{score:g}" for score in row["scores"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv", "p.parquet"]


@pytest.mark.soak
def test_a_killed_prediction_goes_on_behind_the_shards_that_were_finished(
    start_verb: StartVerb, head: Head, checkpoint: str, frame_shards: Shards, tmp_path: Path
) -> None:
    shards = sorted(glob.glob(frame_shards.train)) * 4
    for index, shard in enumerate(shards):
        (tmp_path / f"{index:04d}.tfrecord").symlink_to(shard)
    output = tmp_path / "p.csv"
    done = Path(f"{output}.parts/done.jsonl")
    command = ("predict", checkpoint, str(tmp_path / "*.tfrecord"), "--output", str(output), "--top-k", "3")

    with start_verb(*command, **head.environment) as killed:
        killed.wait_until(lambda: done.exists() and len(done.read_text().splitlines()) >= 3)
        killed.send(signal.SIGKILL)
        killed.wait()
    num_done = len(done.read_text().splitlines())
    assert num_done < len(shards) and not output.exists()
    with start_verb(*command, **head.environment) as again:
        outcome = again.wait()

    assert (outcome.code, outcome.stdout) == (0, f"{output}\n"), outcome.stderr
    assert f"continuing: {num_done} of {len(shards)} shards were done" in outcome.stderr
    num_videos = 24 * len(shards)
    assert f"{num_videos} videos of {len(shards)} shards; {num_videos - 24 * num_done} of them in" in outcome.stderr
    lines = output.read_text().splitlines()[1:]
    assert len(lines) == num_videos
    assert lines == lines[: 24 * 4] * 4
    assert not done.parent.exists()


def test_a_bundle_is_predicted_from_like_a_checkpoint(
    run_verb: RunVerb, head: Head, bundle: Path, frame_shards: Shards, tmp_path: Path
) -> None:
    output = str(tmp_path / "p.csv")
    outcome = run_verb("predict", str(bundle), frame_shards.validation, "--output", output, **head.environment)
    assert outcome.code == 0, outcome.stderr
    assert len(Path(output).read_text().splitlines()) == 1 + NUM_VALIDATION


def test_a_bundle_is_deployed_to_the_cluster(head: Head, bundle: Path, frame_shards: Shards, tmp_path: Path) -> None:
    port = free_port()
    serve, dashboard = str(BIN / "serve"), head.environment["RAY_API_SERVER_ADDRESS"]
    config = str(write_config(bundle, tmp_path / "serve.yaml", port))
    try:
        with Command(serve, "deploy", "-a", dashboard, config, folder=tmp_path, environment=head.environment) as deploy:
            assert deploy.wait().code == 0, deploy.stderr
        wait_until_healthy(port)
        by_json, by_record = ask(port, frame_shards.first_validation, top_k=NUM_CLASSES)
    finally:
        shutdown = [serve, "shutdown", "-a", dashboard, "--yes"]
        with Command(*shutdown, folder=tmp_path, environment=head.environment) as command:
            command.wait()

    assert len(by_json["predictions"][0]["labels"]) == NUM_CLASSES
    assert by_json == by_record
    assert not is_listening(port)

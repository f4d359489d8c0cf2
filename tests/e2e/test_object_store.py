"""A verb that reads shards from an object store through Ray's workers, while requests fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.e2e.conftest import RunVerb
from tests.support.object_store import BUCKET, ENVIRONMENT, ObjectStore
from yt8m_ray.data.format.example import encode_sequence_example
from yt8m_ray.data.format.tfrecord import write_records


def write_shard(path: Path, first: int) -> None:
    rng = np.random.default_rng(first)
    payloads = []
    for index in range(first, first + 50):
        frames = {name: rng.integers(0, 256, (6, size), np.uint8) for name, size in (("rgb", 8), ("audio", 4))}
        payloads.append(encode_sequence_example({"id": [b"v%03d" % index]}, frames))
    write_records(str(path), payloads)


def test_every_video_of_a_store_that_fails_now_and_then_is_predicted_once_and_in_order(
    run_verb: RunVerb, save_tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with ObjectStore() as store:
        for index in range(3):
            write_shard(tmp_path / "shard", 50 * index)
            store.put(f"test/test{index}.tfrecord", (tmp_path / "shard").read_bytes())
        store.faults = ["cut", "", "503", "cut", "short"]
        pattern, output = f"s3://{BUCKET}/test/*.tfrecord", tmp_path / "predictions.csv"
        environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": store.url}

        outcome = run_verb("predict", str(save_tiny_checkpoint()), pattern, "--output", str(output), **environment)

        assert outcome.code == 0, outcome.stderr
        assert store.faults == []
    _, *lines = output.read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [f"v{index:03d}" for index in range(150)]


def test_a_store_that_fails_for_ever_is_exit_1_with_one_message(
    run_verb: RunVerb, save_tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with ObjectStore() as store:
        write_shard(tmp_path / "shard", 0)
        path = store.put("test/shard", (tmp_path / "shard").read_bytes())
        store.faults = ["503"] * 100
        environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": store.url, "AWS_MAX_ATTEMPTS": "2"}
        output = tmp_path / "predictions.csv"

        outcome = run_verb("predict", str(save_tiny_checkpoint()), path, "--output", str(output), **environment)

    assert (outcome.code, outcome.stdout) == (1, "")
    assert f"error: {path}: {store.url} answers " in outcome.stderr
    assert "to every attempt; try again later" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not output.exists()

"""Training, evaluation and prediction over shards of which some are damaged, with `on_corrupt: skip`."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from tests.integration.conftest import FEATURE_DIM, NUM_CLASSES, Shards
from tests.integration.test_train import config_of
from yt8m_ray.config.document import override
from yt8m_ray.config.evaluate import EvaluateConfig
from yt8m_ray.data.format.example import encode_example
from yt8m_ray.data.format.tfrecord import frame_record
from yt8m_ray.data.pipeline.shards import expand_shards
from yt8m_ray.inference.batch.evaluate import evaluate_shards
from yt8m_ray.inference.batch.predict import predict_shards
from yt8m_ray.training.driver.trainer import fit
from yt8m_ray.training.run.outcome import FitResult

pytestmark = pytest.mark.usefixtures("ray_cluster")

NUM_EPOCHS = 2


def flip(shard: bytes, position: int) -> bytes:
    return shard[:position] + bytes([shard[position] ^ 1]) + shard[position + 1 :]


def video(class_id: int, *, value: float = 1.0) -> bytes:
    mean = np.ones(FEATURE_DIM, np.float32)
    mean[-1] = value
    return frame_record(encode_example({"id": [b"more"], "labels": np.array([class_id]), "mean_rgb": mean}))


@dataclass(frozen=True)
class Damage:
    """What is done to a shard, and what it costs: records of the shard that are lost, and rejections by cause."""

    spoil: Callable[[bytes], bytes]
    num_lost: int
    rejected: dict[str, int]


TRAIN = {
    0: Damage(lambda shard: flip(shard, 500), 1, {"crc": 1}),  # among the first records, by which an epoch is estimated
    1: Damage(lambda shard: flip(flip(shard, 3), len(shard) - 40), 2, {"crc": 2}),  # a length, and the last payload
    3: Damage(lambda shard: shard[:-20], 1, {"length": 1}),
    4: Damage(lambda shard: shard + video(NUM_CLASSES), 0, {"label": 1}),
    5: Damage(lambda shard: video(1, value=np.nan) + shard + video(1, value=-np.inf), 0, {"value": 2}),
    6: Damage(lambda shard: frame_record(b"text") + shard + frame_record(b""), 0, {"parse": 2}),
    8: Damage(lambda _: b"", 85, {"length": 1}),
}
VALIDATION = {
    0: Damage(lambda shard: flip(shard, 500), 1, {"crc": 1}),
    1: Damage(lambda _: b"x" * 99, 58, {"crc": 1}),
}


def num_lost(damages: dict[int, Damage]) -> int:
    return sum(damage.num_lost for damage in damages.values())


def count(damages: dict[int, Damage], cause: str) -> int:
    return sum(damage.rejected.get(cause, 0) for damage in damages.values())


@pytest.fixture(scope="module")
def damaged(shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """Copies of the shards, some of them damaged."""
    folder = tmp_path_factory.mktemp("damaged")
    for pattern, damages in ((shards.train, TRAIN), (shards.validation, VALIDATION)):
        for number, path in enumerate(expand_shards(pattern, key="any")):
            copy = Path(shutil.copy(path, folder))
            if number in damages:
                copy.write_bytes(damages[number].spoil(copy.read_bytes()))
    return Shards(
        train=str(folder / "train*.tfrecord"),
        validation=str(folder / "validation*.tfrecord"),
        num_train=shards.num_train - num_lost(TRAIN),
        num_validation=shards.num_validation - num_lost(VALIDATION),
    )


@pytest.fixture(scope="module")
def trained(damaged: Shards, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """A run of two workers over two epochs."""
    config = config_of(damaged, tmp_path_factory.mktemp("runs"), "skip", train={"num_epochs": NUM_EPOCHS})
    return fit(override(config, {"data.on_corrupt": "skip"}))


def test_each_epoch_counts_what_it_read_and_what_it_rejected(trained: FitResult, damaged: Shards) -> None:
    client = MlflowClient(trained.tracking_uri)

    def history(name: str) -> list[float]:
        return [metric.value for metric in client.get_metric_history(trained.mlflow_run_id, name)]

    assert history("train/videos_read") == [damaged.num_train] * NUM_EPOCHS
    for cause in ("crc", "length", "parse", "label", "value"):
        assert history(f"train/rejected_{cause}") == [count(TRAIN, cause)] * NUM_EPOCHS, cause
        assert history(f"validation/rejected_{cause}") == [count(VALIDATION, cause)] * NUM_EPOCHS, cause
    assert trained.metrics["validation/num_videos"] == damaged.num_validation


def test_the_log_names_each_damaged_shard_once(trained: FitResult, damaged: Shards) -> None:
    lines = [line for line in (trained.run_path / "train.log").read_text().splitlines() if " records left out " in line]

    named = sorted(re.findall(r"(\w+)\.tfrecord: \d+ of \d+ records left out", "\n".join(lines)))

    assert named == [f"train{number:04d}" for number in TRAIN] + [f"validation{number:04d}" for number in VALIDATION]
    assert len(lines) == len(named)


def test_evaluation_counts_what_it_left_out(trained: FitResult, damaged: Shards) -> None:
    config = EvaluateConfig.model_validate({"data": {"on_corrupt": "skip"}, "scaling": {"num_workers": 2}})

    metrics = evaluate_shards(trained.checkpoint, expand_shards(damaged.validation, key="any"), config)

    assert metrics["num_videos"] == damaged.num_validation
    assert metrics["num_rejected"] == len(VALIDATION)
    assert metrics["gap"] == pytest.approx(trained.metrics["validation/gap"], abs=1e-6)


def test_prediction_writes_every_video_that_is_left(
    trained: FitResult, damaged: Shards, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "predictions.csv"
    with caplog.at_level(logging.INFO):
        num_videos = predict_shards(
            trained.checkpoint, expand_shards(damaged.train, key="any"), str(output), num_workers=2, on_corrupt="skip"
        )

    # Labels are not read here: a class id that is out of range costs nothing.
    assert num_videos == damaged.num_train + count(TRAIN, "label")
    ids = [line.split(",")[0] for line in output.read_text().splitlines()[1:]]
    assert len(set(ids)) == len(ids) == num_videos
    assert "left out: crc 3, length 2, parse 2, value 2" in caplog.text
    assert caplog.text.count(" records left out ") == sum(
        set(damage.rejected) != {"label"} for damage in TRAIN.values()
    )

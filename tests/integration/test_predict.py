"""Offline prediction and export on Ray: order, both file formats, and a bundle that says how good it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from yt8m_ray.artifacts.checkpoint import save_checkpoint
from yt8m_ray.config.export import ExportConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.errors import CorruptRecordError
from yt8m_ray.data.format.example import encode_example
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.data.pipeline.shard_reader import read_rows
from yt8m_ray.data.pipeline.shards import expand_shards
from yt8m_ray.inference.batch.predict import predict_shards
from yt8m_ray.inference.bundle.folder import load_bundle
from yt8m_ray.inference.ensemble.export import export, resolve
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.metrics import build_metric
from yt8m_ray.models import build_model

pytestmark = pytest.mark.usefixtures("ray_cluster")

FEATURES = {"mean_rgb": 8, "mean_audio": 4}
NUM_CLASSES = 30


def save_model(folder: Path, seed: int) -> Path:
    config = TrainConfig.model_validate(
        {
            "output": str(folder.parent / "runs"),
            "run": {"name": "tiny"},
            "data": {"features": FEATURES, "num_classes": NUM_CLASSES},
            "model": {"name": "logistic"},
        }
    )
    torch.manual_seed(seed)
    model = build_model(config.model, feature_sizes=list(FEATURES.values()), num_classes=NUM_CLASSES)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    folder.mkdir()
    save_checkpoint(folder, config=config, model=model, state={}, facts={})
    return folder


def write_shard(path: Path, first: int, count: int, *, labelled: bool = True) -> Path:
    generator = np.random.default_rng(first)
    payloads = []
    for index in range(first, first + count):
        features = {name: generator.standard_normal(size).astype(np.float32) for name, size in FEATURES.items()}
        labels = {"labels": generator.integers(0, NUM_CLASSES, 3)} if labelled else {}
        payloads.append(encode_example({"id": [f"v{index:04d}".encode()], **labels, **features}))
    write_records(str(path), payloads)
    return path


def predict(checkpoint: Path, pattern: str, output: Path, **options: int) -> int:
    shards = expand_shards(pattern, key="shards")
    return predict_shards(checkpoint, shards, str(output), **options)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_model(tmp_path / "checkpoint", seed=1)


def test_predictions_keep_the_order_of_shards_and_records(tmp_path: Path, checkpoint: Path) -> None:
    # Written out of order and of very different sizes, so that the later shard is read first.
    write_shard(tmp_path / "b.tfrecord", 700, 3, labelled=False)
    write_shard(tmp_path / "a.tfrecord", 0, 700)
    output = tmp_path / "predictions.csv"

    num_videos = predict(checkpoint, str(tmp_path / "*.tfrecord"), output, num_workers=2)

    lines = output.read_text().splitlines()
    assert num_videos == 703
    assert lines[0] == "VideoId,LabelConfidencePairs"
    assert [line.split(",")[0] for line in lines[1:]] == [f"v{index:04d}" for index in range(703)]


def test_both_formats_hold_what_the_predictor_answers(tmp_path: Path, checkpoint: Path) -> None:
    shard = write_shard(tmp_path / "a.tfrecord", 0, 70)
    for name in ("p.csv", "p.parquet"):
        predict(checkpoint, str(shard), tmp_path / name, top_k=4)

    predictor = Predictor.from_path(checkpoint)
    best = predictor.predict([row for _, row in read_rows(str(shard), predictor.spec)], 4)
    table = pq.read_table(tmp_path / "p.parquet")
    assert table["class_ids"].to_pylist() == best.class_ids.tolist()
    assert np.allclose(np.array(table["scores"].to_pylist()), best.scores.numpy(), atol=1e-6)
    pairs = (tmp_path / "p.csv").read_text().splitlines()[1].split(",")[1].split(" ")
    assert pairs[0::2] == [str(class_id) for class_id in best.class_ids[0].tolist()]
    assert [float(score) for score in pairs[1::2]] == pytest.approx(best.scores[0].tolist(), rel=1e-5)


def test_a_shard_that_is_listed_twice_is_read_twice(tmp_path: Path, checkpoint: Path) -> None:
    # As bagging lists it; the account of the records goes by the place in the list.
    shards = [str(write_shard(tmp_path / f"{name}.tfrecord", 0, 5)) for name in ("a", "b")]

    assert predict_shards(checkpoint, [shards[0], shards[0], shards[1]], str(tmp_path / "p.csv")) == 15


def test_a_bad_record_is_named_and_leaves_no_file(tmp_path: Path, checkpoint: Path) -> None:
    shard = write_shard(tmp_path / "a.tfrecord", 0, 5)
    data = bytearray(shard.read_bytes())
    data[-10] ^= 1
    shard.write_bytes(bytes(data))

    with pytest.raises(CorruptRecordError, match=r"a\.tfrecord: record 4 at byte "):
        predict(checkpoint, str(shard), tmp_path / "p.csv")

    assert not list(tmp_path.glob("p.csv*"))


def test_labels_of_another_vocabulary_are_no_hindrance(tmp_path: Path, checkpoint: Path) -> None:
    features = {name: np.ones(size, np.float32) for name, size in FEATURES.items()}
    payload = encode_example({"id": [b"v"], "labels": np.array([NUM_CLASSES]), **features})
    write_records(str(tmp_path / "a.tfrecord"), [payload])

    assert predict(checkpoint, str(tmp_path / "a.tfrecord"), tmp_path / "p.csv") == 1


def test_an_exported_bundle_states_the_gap_of_its_own_predictions(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YT8M_CACHE", str(tmp_path / "cache"))
    shards = [write_shard(tmp_path / f"{name}.tfrecord", first, 40) for name, first in (("a", 0), ("b", 40))]
    config = ExportConfig.model_validate(
        {
            "members": [{"checkpoint": str(path)} for path in (checkpoint, save_model(tmp_path / "other", seed=2))],
            "transform": {"min_elements": 100},
            "data": {"validation": [str(shard) for shard in shards]},
            "output": str(tmp_path / "bundle.tar"),
            "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db"},
        }
    )

    path, document = export(*resolve(config), num_workers=2)

    predictor = Predictor.from_path(path)
    rows = [row for shard in shards for _, row in read_rows(str(shard), predictor.spec)]
    best = predictor.predict(rows, NUM_CLASSES)
    scores = torch.zeros(len(rows), NUM_CLASSES).scatter(1, best.class_ids, best.scores)
    labels = np.zeros((len(rows), NUM_CLASSES), bool)
    for index, row in enumerate(rows):
        labels[index, row.labels] = True
    metric = build_metric("gap")
    metric.update(scores, labels)
    assert document.quality.num_videos == 80
    assert document.quality.gap_after == pytest.approx(metric.compute(), abs=1e-6)
    assert load_bundle(path).document == document
    assert list((tmp_path / "runs" / "mlartifacts").rglob("artifacts/bundle/manifest.json"))

"""Soft labels on Ray: what a teacher says is what a student is taught, also after an interruption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.integration.test_predict import NUM_CLASSES, save_model, write_shard
from yt8m_ray.artifacts.checkpoint import save_checkpoint
from yt8m_ray.cli.main import call
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.example import decode_record, encode_sequence_example
from yt8m_ray.data.format.tfrecord import read_payloads, write_records
from yt8m_ray.data.labels.soft_label_files import SoftLabelIndex
from yt8m_ray.data.labels.soft_labels import SoftLabels
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.pipeline.shard_reader import read_blocks, read_rows
from yt8m_ray.data.storage.filesystem import open_stream
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.batch.distill import choose_format, label_shards
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.models import build_model

pytestmark = pytest.mark.usefixtures("ray_cluster")


def videos_of(shards: list[str], teacher: Path) -> PackedVideos:
    spec = Predictor.from_path(teacher).spec
    blocks = [
        block.videos
        for index, path in enumerate(shards)
        for block in read_blocks(path, spec, ReadOptions(), shard=index)
        if len(block.videos)
    ]
    return PackedVideos.concatenate(blocks).select(np.random.default_rng(0).permutation(sum(map(len, blocks))))


def scores_of(teacher: Path, videos: PackedVideos) -> np.ndarray:
    best = Predictor.from_path(teacher).predict(videos, NUM_CLASSES)
    scores: np.ndarray = torch.zeros(len(videos), NUM_CLASSES).scatter(1, best.class_ids, best.scores).numpy()
    return scores


def test_a_failed_set_is_finished_by_a_later_call_that_reads_no_finished_shard(tmp_path: Path) -> None:
    teacher, output = save_model(tmp_path / "teacher", seed=1), tmp_path / "soft"
    shards = [str(write_shard(tmp_path / f"{name}.tfrecord", first, 70)) for name, first in (("a", 0), ("b", 70))]
    whole = Path(shards[1]).read_bytes()
    Path(shards[1]).write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"b.tfrecord: record 69"):
        label_shards(teacher, shards, output, num_entries=4)
    with pytest.raises(FileNotFoundError, match=r"no index.json"):
        SoftLabels(str(output), shards, NUM_CLASSES)
    label_shards(teacher, shards[:1], output, num_entries=4)
    Path(shards[0]).write_bytes(b"read no more")
    Path(shards[1]).write_bytes(whole)

    index = label_shards(teacher, shards, output, num_entries=4)

    assert [(entry.name, entry.num_videos) for entry in index.shards] == [("a.tfrecord", 70), ("b.tfrecord", 70)]
    write_shard(tmp_path / "a.tfrecord", 0, 70)
    videos = videos_of(shards, teacher)
    scores = scores_of(teacher, videos)
    expected = np.where(scores >= np.sort(scores, axis=1)[:, -4:-3], scores, 0)
    found = SoftLabels(str(output), shards, NUM_CLASSES).lookup(videos).numpy()
    assert np.abs(found - expected).max() < 2**-11
    assert (np.count_nonzero(found, axis=1) == 4).all()

    with pytest.raises(ConfigError, match=r"holds labels of"):
        label_shards(save_model(tmp_path / "other", seed=2), shards, output, num_entries=4)


def test_a_dense_set_has_every_score_and_a_record_left_out_has_none(tmp_path: Path) -> None:
    teacher = save_model(tmp_path / "teacher", seed=1)
    shard = write_shard(tmp_path / "a.tfrecord", 0, 5)
    sound = videos_of([str(shard)], teacher)
    data = bytearray(shard.read_bytes())
    data[-10] ^= 1
    shard.write_bytes(bytes(data))

    index = label_shards(teacher, [str(shard)], tmp_path / "soft", label_format="dense", on_corrupt="skip")

    assert (index.shards[0].num_records, index.shards[0].num_videos) == (5, 4)
    labels = SoftLabels(str(tmp_path / "soft"), [str(shard)], NUM_CLASSES)
    read = sound.select(np.flatnonzero(sound.records < 4))
    assert np.abs(labels.lookup(read).numpy() - scores_of(teacher, read)).max() < 2**-11
    with pytest.raises(ValueError, match=r"record 4: expected labels of video 'v0004', found none"):
        labels.lookup(sound)


def frame_level_teacher(folder: Path) -> Path:
    features = {"rgb": 6, "audio": 2}
    document = {
        "run": {"name": "tiny"},
        "data": {"features": features, "num_classes": NUM_CLASSES},
        "model": {"name": "frame_logistic"},
    }
    config = TrainConfig.model_validate(document)
    model = build_model(config.model, feature_sizes=list(features.values()), num_classes=NUM_CLASSES)
    folder.mkdir()
    save_checkpoint(folder, config=config, model=model, state={}, facts={})
    return folder


def test_the_published_form_carries_the_same_frames_and_the_teacher_s_scores(tmp_path: Path) -> None:
    rng, shard = np.random.default_rng(0), str(tmp_path / "a.tfrecord")
    frames = [rng.integers(0, 256, (length, 8), dtype=np.uint8) for length in (3, 1, 7)]
    payloads = [
        encode_sequence_example(
            {"id": [f"v{index}".encode()], "labels": np.array([5, index])},
            {"rgb": np.ascontiguousarray(clip[:, :6]), "audio": np.ascontiguousarray(clip[:, 6:])},
        )
        for index, clip in enumerate(frames)
    ]
    write_records(shard, payloads)
    teacher = frame_level_teacher(tmp_path / "teacher")

    index = label_shards(teacher, [shard], tmp_path / "soft", label_format="tfrecord")

    path = tmp_path / "soft" / index.shards[0].file
    with open_stream(str(path)) as stream:
        found = [decode_record(bytes(payload)) for _, _, payload in read_payloads(stream, path=str(path))]
    assert [fields.context["video_id"] for fields in found] == [[b"v0"], [b"v1"], [b"v2"]]
    assert [np.array(fields.context["labels"]).tolist() for fields in found] == [[0, 5], [1, 5], [2, 5]]
    for fields, clip in zip(found, frames, strict=True):
        assert np.array_equal(np.hstack([fields.sequences["rgb"], fields.sequences["audio"]]), clip)
    predictions = np.array([fields.context["predictions"] for fields in found])
    rows = [row for _, row in read_rows(shard, Predictor.from_path(teacher).spec)]
    expected = scores_of(teacher, PackedVideos.from_rows(rows, Predictor.from_path(teacher).spec))
    assert np.allclose(predictions, expected, atol=1e-6)
    assert SoftLabelIndex.load(str(tmp_path / "soft")).format == "tfrecord"


def test_the_published_form_is_refused_at_video_level(tmp_path: Path) -> None:
    teacher, shard = save_model(tmp_path / "teacher", seed=1), write_shard(tmp_path / "a.tfrecord", 0, 2)
    with pytest.raises(ConfigError, match=r"format tfrecord: expected a teacher of frames, found one of mean_rgb"):
        label_shards(teacher, [str(shard)], tmp_path / "soft", label_format="tfrecord")
    assert not (tmp_path / "soft").exists()


def test_the_options_choose_a_format() -> None:
    assert choose_format("arrow", top=None, dense=False) == ("top", 100)
    assert choose_format("arrow", top=7, dense=False) == ("top", 7)
    assert choose_format("arrow", top=None, dense=True)[0] == "dense"
    assert choose_format("tfrecord", top=None, dense=True)[0] == "tfrecord"
    with pytest.raises(ConfigError, match=r"top: expected at least 1, found 0"):
        choose_format("arrow", top=0, dense=False)
    with pytest.raises(ConfigError, match=r"top: the published format holds all classes"):
        choose_format("tfrecord", top=5, dense=False)


def test_the_verb_prints_the_folder_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher, shard = save_model(tmp_path / "teacher", seed=1), write_shard(tmp_path / "a.tfrecord", 0, 3)

    call(["distill", str(teacher), str(shard), "--output", str(tmp_path / "soft"), "--top", "3"])

    assert capsys.readouterr().out == f"{tmp_path / 'soft'}\n"
    assert SoftLabelIndex.load(str(tmp_path / "soft")).num_entries == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-workers", "0"], r"--num-workers: expected at least 1"),
        (["--top", "0"], r"top: expected at least 1, found 0"),
        (["--output", "s3://bucket/soft"], r"output: expected a local folder, found s3://bucket/soft"),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(tmp_path: Path, options: list[str], message: str) -> None:
    teacher = save_model(tmp_path / "teacher", seed=1)
    with pytest.raises(ConfigError, match=message):
        call(["distill", str(teacher), "no.tfrecord", "--output", str(tmp_path / "soft"), *options])

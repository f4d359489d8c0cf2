from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from yt8m_ray.data.format.example import decode_record
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.labels.soft_label_files import (
    LabelledShard,
    SoftLabelIndex,
    encode_published,
    join,
    label_file,
    shard_name,
    to_label_table,
    write_labels,
)
from yt8m_ray.data.labels.soft_labels import SoftLabels
from yt8m_ray.data.pipeline.packed_videos import PackedVideos

NUM_CLASSES, NUM_ENTRIES, NUM_VIDEOS = 40, 4, 9
RNG = np.random.default_rng(0)
SCORES = {name: RNG.random((NUM_VIDEOS, NUM_CLASSES)).astype(np.float16) for name in ("a", "b")}
SHARDS = ["/elsewhere/a.tfrecord", "/elsewhere/b.tfrecord"]
SPEC = FeatureSpec({"mean_rgb": 2}, num_classes=NUM_CLASSES)


def write(folder: Path, label_format: Literal["top", "dense", "tfrecord"] = "top", *, missing: int = -1) -> str:
    """Writes the labels of both shards, in two parts out of order, without those of one record; returns the folder."""
    folder.mkdir()
    entries = []
    for name, scores in SCORES.items():
        records = np.array([record for record in range(NUM_VIDEOS) if record != missing], np.int32)
        if label_format == "dense":
            class_ids, kept = np.empty((NUM_VIDEOS, 0), np.uint16), scores
        else:
            class_ids = np.argsort(-scores, axis=1)[:, :NUM_ENTRIES].astype(np.uint16)
            kept = np.take_along_axis(scores, class_ids.astype(np.int64), axis=1)
        parts = [
            to_label_table(rows, [f"{name}{record}" for record in rows], kept[rows], class_ids[rows])
            for rows in (records[5:], records[:5])
        ]
        path = folder / label_file(f"{name}.tfrecord", label_format)
        write_labels(path, parts)
        entries.append(
            LabelledShard(
                name=f"{name}.tfrecord",
                file=path.name,
                bytes=path.stat().st_size,
                num_records=NUM_VIDEOS,
                num_videos=len(records),
            )
        )
    SoftLabelIndex(
        teacher="t", format=label_format, num_classes=NUM_CLASSES, num_entries=NUM_ENTRIES, shards=entries
    ).save(folder)
    return str(folder)


def videos_of(*places: tuple[int, int]) -> PackedVideos:
    """Videos by (shard, record)."""
    count = len(places)
    return PackedVideos(
        shards=np.array([shard for shard, _ in places], np.int32),
        records=np.array([record for _, record in places], np.int32),
        video_ids=np.array([f"{'ab'[shard]}{record}" for shard, record in places], dtype=object),
        num_frames=np.ones(count, np.int64),
        frames=np.zeros((count, 2), np.float32),
        num_labels=np.zeros(count, np.int64),
        labels=np.empty(0, np.int32),
        is_labelled=np.ones(count, bool),
    )


PLACES = ((1, 3), (0, 8), (1, 0), (0, 0), (0, 5), (1, 8))


def expected(shard: int, record: int, num_entries: int) -> list[float]:
    scores = SCORES["ab"[shard]][record].astype(np.float32)
    least = np.sort(scores)[-num_entries]
    return np.where(scores >= least, scores, 0).tolist()


def test_the_best_scores_stand_at_their_classes_and_all_others_are_zero(tmp_path: Path) -> None:
    found = SoftLabels(write(tmp_path / "soft"), SHARDS, NUM_CLASSES).lookup(videos_of(*PLACES))
    assert found.dtype == torch.float32
    assert found.tolist() == [expected(*place, NUM_ENTRIES) for place in PLACES]


def test_dense_labels_are_all_scores(tmp_path: Path) -> None:
    found = SoftLabels(write(tmp_path / "soft", "dense"), SHARDS, NUM_CLASSES).lookup(videos_of(*PLACES))
    assert found.tolist() == [expected(*place, NUM_CLASSES) for place in PLACES]


def test_an_empty_batch_has_scores_of_no_videos(tmp_path: Path) -> None:
    found = SoftLabels(write(tmp_path / "soft"), SHARDS, NUM_CLASSES).lookup(PackedVideos.from_rows([], SPEC))
    assert found.shape == (0, NUM_CLASSES)


def test_a_shard_that_is_listed_twice_has_its_labels_twice(tmp_path: Path) -> None:
    labels = SoftLabels(write(tmp_path / "soft"), [SHARDS[0], SHARDS[0]], NUM_CLASSES)
    videos = dataclasses.replace(videos_of((0, 2), (0, 2)), shards=np.array([0, 1], np.int32))
    found = labels.lookup(videos)
    assert found[0].tolist() == found[1].tolist() == expected(0, 2, NUM_ENTRIES)


def test_labels_of_other_videos_are_refused_with_both_ids(tmp_path: Path) -> None:
    folder = write(tmp_path / "soft")
    videos = dataclasses.replace(videos_of((0, 1), (0, 7)), video_ids=np.array(["a1", "other"], dtype=object))
    message = rf"/elsewhere/a.tfrecord: record 7: expected labels of video 'other', found those of 'a7' in {folder}/a"
    with pytest.raises(ValueError, match=message):
        SoftLabels(folder, SHARDS, NUM_CLASSES).lookup(videos)


@pytest.mark.parametrize("record", [4, 8])
def test_a_record_without_labels_is_named(tmp_path: Path, record: int) -> None:
    labels = SoftLabels(write(tmp_path / "soft", missing=record), SHARDS, NUM_CLASSES)
    assert len(labels.lookup(videos_of((0, 3), (0, 5)))) == 2
    with pytest.raises(
        ValueError, match=rf"b.tfrecord: record {record}: expected labels of video 'b{record}', found n"
    ):
        labels.lookup(videos_of((0, 3), (1, record)))


@pytest.mark.parametrize(
    ("label_format", "score"),
    [("dense", np.nan), ("dense", np.inf), ("dense", -0.25), ("dense", 1.0009765625), ("top", np.inf)],
)
def test_a_score_that_is_none_is_named_with_its_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label_format: Literal["top", "dense"], score: float
) -> None:
    spoilt = SCORES["b"].copy()
    spoilt[7, 3] = score
    monkeypatch.setitem(SCORES, "b", spoilt)
    labels = SoftLabels(write(tmp_path / "soft", label_format), SHARDS, NUM_CLASSES)

    assert len(labels.lookup(videos_of((0, 7), (1, 6)))) == 2
    with pytest.raises(ValueError, match=rf"soft/b\.arrow: video 'b7': expected scores in 0 to 1, found {score:g}"):
        labels.lookup(videos_of((0, 7), (1, 6), (1, 7)))


@pytest.mark.parametrize("score", [0.0, -0.0, 1.0, 6e-8])
def test_the_bounds_of_scores_are_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: float) -> None:
    monkeypatch.setitem(SCORES, "b", np.full_like(SCORES["b"], score))
    found = SoftLabels(write(tmp_path / "soft", "dense"), SHARDS, NUM_CLASSES).lookup(videos_of((1, 7)))
    assert found.unique().tolist() == [float(np.float16(score))]


def test_a_shard_without_labels_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no labels of /x/c.tfrecord, only of 2 other shards"):
        SoftLabels(write(tmp_path / "soft"), [*SHARDS, "/x/c.tfrecord"], NUM_CLASSES)


def test_two_shards_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"/elsewhere/a.tfrecord and /other/a.tfrecord have one name"):
        SoftLabels(write(tmp_path / "soft"), [*SHARDS, "/other/a.tfrecord"], NUM_CLASSES)


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the teacher has 40 classes, the student 41"):
        SoftLabels(write(tmp_path / "soft"), SHARDS, 41)


def test_labels_for_the_published_reader_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"TFRecords for the published reader"):
        SoftLabels(write(tmp_path / "soft", "tfrecord"), SHARDS, NUM_CLASSES)


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no index.json; expected a folder that `yt8m distill` has finished"):
        SoftLabels(str(tmp_path), SHARDS, NUM_CLASSES)


@pytest.mark.parametrize("text", ["{}", "no JSON", '{"version": 2}'])
def test_a_file_that_is_no_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index.json: "):
        SoftLabels(str(tmp_path), SHARDS, NUM_CLASSES)


def test_a_file_that_is_cut_short_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "soft")
    path = tmp_path / "soft" / "a.arrow"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"a.arrow: no file of soft labels"):
        SoftLabels(folder, SHARDS, NUM_CLASSES).lookup(videos_of((0, 1)))


def test_files_used_least_recently_are_closed_where_all_grow_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yt8m_ray.data.labels.soft_labels._MOST_OPEN_BYTES", 1)
    labels = SoftLabels(write(tmp_path / "soft"), SHARDS, NUM_CLASSES)
    for place in PLACES:
        assert labels.lookup(videos_of(place)).tolist() == [expected(*place, NUM_ENTRIES)]
        assert labels.num_open == 1


def test_the_best_hundred_of_3862_classes_take_less_than_a_tenth_of_the_published_bytes(tmp_path: Path) -> None:
    records = np.arange(1000, dtype=np.int32)
    class_ids = np.tile(np.arange(100, dtype=np.uint16), (1000, 1))
    table = to_label_table(records, ["abcdefghijk"] * 1000, class_ids.astype(np.float16), class_ids)
    write_labels(tmp_path / "a.arrow", [table])
    assert (tmp_path / "a.arrow").stat().st_size < 430 * 1000 < 15_448 * 1000 / 10


def test_the_name_of_a_shard_is_that_of_its_file() -> None:
    assert shard_name("/data/train00.tfrecord") == "train00.tfrecord"
    assert shard_name("s3://bucket/a/train00.tfrecord?endpoint_override=x:1&scheme=http") == "train00.tfrecord"
    assert join("s3://bucket/soft/?scheme=http", "a.arrow") == "s3://bucket/soft/a.arrow?scheme=http"
    assert join("soft", "a.arrow") == "soft/a.arrow"


def test_a_published_record_holds_the_bytes_of_its_frames_and_dense_scores() -> None:
    spec = FeatureSpec({"rgb": 5, "audio": 3}, num_classes=NUM_CLASSES)
    frames = RNG.integers(0, 256, (6, 8), dtype=np.uint8)
    scores = RNG.random(NUM_CLASSES).astype(np.float32)
    payload = encode_published("abc", frames, np.array([2, 30], np.int32), scores, spec=spec)
    fields = decode_record(payload)
    assert fields.context["video_id"] == [b"abc"]
    assert np.array(fields.context["labels"]).tolist() == [2, 30]
    assert np.array_equal(np.array(fields.context["predictions"]), scores)
    assert np.array_equal(np.array(fields.sequences["rgb"]), frames[:, :5])
    assert np.array_equal(np.array(fields.sequences["audio"]), frames[:, 5:])
    assert len(fields.context) == 3 and len(fields.sequences) == 2


@pytest.mark.timeout(20)
def test_a_pipe_in_the_place_of_labels_is_refused_at_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "labels")
    (tmp_path / "labels" / "b.arrow").unlink()
    os.mkfifo(tmp_path / "labels" / "b.arrow")

    with pytest.raises(OSError, match=r"b\.arrow: expected a regular file, found a named pipe"):
        SoftLabels(folder, SHARDS, NUM_CLASSES).lookup(videos_of((1, 3)))


@pytest.mark.parametrize("seed", range(40))
def test_no_changed_byte_of_a_file_ends_the_process(tmp_path: Path, seed: int) -> None:
    folder = write(tmp_path / "labels")
    path = tmp_path / "labels" / "b.arrow"
    generator = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for place in generator.integers(0, len(content), 3):
        content[place] = generator.choice([0, 128, 255])
    path.write_bytes(content)

    try:
        scores = SoftLabels(folder, SHARDS, NUM_CLASSES).lookup(videos_of((1, 3)))
    except ValueError as error:
        assert str(path) in str(error)  # Arrow checks nothing by itself, and aborts on a length that is none
    else:
        assert scores.shape == (1, NUM_CLASSES)


def test_classes_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "labels")
    scores, class_ids = np.full((1, 2), 0.5, np.float16), np.array([[3, NUM_CLASSES]], np.uint16)
    write_labels(tmp_path / "labels" / "b.arrow", [to_label_table(np.array([3], np.int32), ["b3"], scores, class_ids)])

    with pytest.raises(ValueError, match=r"b\.arrow: expected class ids below 40, found 40"):
        SoftLabels(folder, SHARDS, NUM_CLASSES).lookup(videos_of((1, 3)))


@pytest.mark.parametrize("labels", [None, np.empty(0, np.int32)], ids=["unknown", "of no class"])
def test_a_published_record_tells_no_labels_from_an_empty_list(labels: np.ndarray | None) -> None:
    spec = FeatureSpec({"rgb": 8}, num_classes=NUM_CLASSES)
    payload = encode_published("abc", np.zeros((1, 8), np.uint8), labels, np.zeros(NUM_CLASSES, np.float32), spec=spec)

    assert ("labels" in decode_record(payload).context) == (labels is not None)

"""What is said about a data set whose shards have been surveyed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yt8m_ray.data.format.example import encode_example
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.data.inspection.dataset_manifest import Failure
from yt8m_ray.data.inspection.dataset_summary import Summary
from yt8m_ray.data.inspection.shard_counts import survey_shard

SIZES = {"mean_rgb": 4}


def video(video_id: str, *class_ids: int, key: str = "id", size: int = 4, labels: str | None = "labels") -> bytes:
    """A video whose labels have the given key, or none where that is None."""
    known = {} if labels is None else {labels: np.array(class_ids, np.int64)}
    return encode_example({key: [video_id.encode()], **known, "mean_rgb": np.ones(size, np.float32)})


def summarise(tmp_path: Path, *shards: list[bytes], num_classes: int = 3862) -> Summary:
    """Returns the summary of shards 0, 1, ...; a shard without records is not there."""
    paths = [str(tmp_path / str(number)) for number in range(len(shards))]
    summary = Summary(paths, SIZES, num_classes)
    for number, payloads in enumerate(shards):
        if payloads:
            write_records(paths[number], payloads)
        summary.add(number, survey_shard(paths[number], SIZES, num_classes=num_classes))
    return summary


def warnings_of(summary: Summary) -> list[str]:
    return [warning["warning"] for warning in summary.warnings if not warning["warning"].startswith("the first record")]


def test_the_document_adds_the_shards_up(tmp_path: Path) -> None:
    document = summarise(tmp_path, [video("a", 1, 2), video("b", 1)], [video("c", 5, 6, 7)]).document()

    assert {name: document[name] for name in ("num_shards", "num_videos", "num_frames", "num_classes_seen")} == {
        "num_shards": 2,
        "num_videos": 3,
        "num_frames": 0,
        "num_classes_seen": 5,
    }
    assert document["bytes"] == sum((tmp_path / name).stat().st_size for name in "01")
    assert (document["level"], document["frames_per_video"]) == ("video", None)
    assert document["labels_per_video"] == {"min": 1, "mean": 2.0, "max": 3}
    assert document["id_keys"] == {"id": 3, "video_id": 0}
    assert (document["failures"], document["rejected"]) == (
        [],
        dict.fromkeys(("crc", "length", "parse", "label", "value"), 0),
    )


def test_failures_name_the_shard_its_causes_and_the_first_fault(tmp_path: Path) -> None:
    bad = [video("b", 3, size=5), video("c", 4000), video("d", size=6), video("e")]

    summary = summarise(tmp_path, [video("a", 1)], bad, [])

    first = f"{tmp_path}/1: record 0 at byte 0: mean_rgb: expected 4 float32 values, found 5 float32 values"
    gone = f"{tmp_path}/2: No such file or directory"
    assert summary.document()["failures"] == [
        {"shard": f"{tmp_path}/1", "num_rejected": 3, "causes": {"label": 1, "parse": 2}, "first": first},
        {"shard": f"{tmp_path}/2", "num_rejected": 0, "causes": {"unreadable": 1}, "first": gone},
    ]
    assert not summary.is_sound


def test_a_difference_from_the_manifest_is_a_failure(tmp_path: Path) -> None:
    summary = summarise(tmp_path, [video("a")])
    summary.differences = [Failure("x", {"manifest": 1}, "x: is not")]

    failures = summary.document()["failures"]

    assert failures == [{"shard": "x", "num_rejected": 0, "causes": {"manifest": 1}, "first": "x: is not"}]
    assert not summary.is_sound


def test_duplicates_name_shards_and_records(tmp_path: Path) -> None:
    summary = summarise(tmp_path, [video("a"), video("b")], [video("c"), video("b")])

    duplicates = summary.document()["duplicates"]

    places = [{"shard": f"{tmp_path}/0", "record": 1}, {"shard": f"{tmp_path}/1", "record": 1}]
    assert duplicates.pop("first") == [{"id": "b", "places": places}]
    assert duplicates == {"num_ids": 1, "num_videos": 1, "num_ids_within_shards": 0, "num_ids_across_shards": 1}
    assert not summary.is_sound


def test_records_that_were_refused_do_not_shift_the_places_of_duplicates(tmp_path: Path) -> None:
    summary = summarise(tmp_path, [video("a", 9999), video("b")], [video("b")])

    assert summary.duplicates.first[0].places == [(0, 1), (1, 0)]


def test_shards_may_be_added_in_any_order(tmp_path: Path) -> None:
    shards: list[list[bytes]] = [[video("a", 1), video("b")], [video("a", 4000), video("b")], [video("b", 2)]]
    summary = summarise(tmp_path, *shards)
    backwards = Summary(summary.shards, SIZES, 3862)
    for number in (2, 0, 1):
        backwards.add(number, survey_shard(summary.shards[number], SIZES, num_classes=3862))

    assert backwards.document() | {"videos_per_s": 0} == summary.document() | {"videos_per_s": 0}


@pytest.mark.parametrize(
    ("records", "warning"),
    [
        ([video("a", 1), video("b", labels=None)], "videos without labels among labelled ones"),
        ([video("a", 1), video("b")], "videos whose list of labels is empty"),
        (
            [video("a", 1), video("b", 1, key="video_id")],
            "ids have several keys: id in 1 records, video_id in 1 records",
        ),
        ([video("a", 4600)], "class ids up to 4600 are in use, valid are 0 to 3861; .*num_classes 4716"),
        ([video("a", 9999)], "class ids up to 9999 are in use, valid are 0 to 3861$"),
    ],
)
def test_what_may_not_be_meant_is_a_warning(tmp_path: Path, records: list[bytes], warning: str) -> None:
    (found,) = warnings_of(summarise(tmp_path, records))

    assert re.match(warning, found), found


def test_a_test_set_without_labels_is_no_warning(tmp_path: Path) -> None:
    summary = summarise(tmp_path, [video("a", labels=None), video("b", labels=None)])

    assert warnings_of(summary) == []
    assert summary.document()["num_unlabelled"] == 2
    assert summary.is_sound


@pytest.mark.parametrize(
    ("sizes", "is_detected", "has_warning"),
    [
        ({"mean_rgb": 1024, "mean_audio": 128}, True, False),
        ({"rgb": 1024, "audio": 128}, True, False),
        ({"rgb": 1024}, True, True),
        ({"rgb": 1024}, False, False),
        ({"mean_rgb": 1024, "mean_audio": 64}, True, True),
    ],
)
def test_features_other_than_the_published_ones_are_remarked_unless_given(
    sizes: dict[str, int], is_detected: bool, has_warning: bool
) -> None:
    summary = Summary(["a"], sizes, 10, is_detected=is_detected)

    assert [warning["warning"].startswith("the first record has the features") for warning in summary.warnings] == [
        True
    ] * has_warning


def test_no_sound_record_at_all_still_makes_a_document(tmp_path: Path) -> None:
    document: dict[str, Any] = summarise(tmp_path, []).document()

    assert (document["num_videos"], document["labels_per_video"], document["max_class_id"]) == (0, None, None)

"""Inputs that users of such systems reported, where a folder of them is: what each reader makes of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from yt8m_ray.data.errors import UNLABELLED, RecordError
from yt8m_ray.data.format.example import decode_record
from yt8m_ray.data.format.features import FeatureSpec, to_row
from yt8m_ray.data.inspection.shard_counts import survey_shard
from yt8m_ray.data.pipeline.preflight import check_first_videos
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.pipeline.shard_reader import read_blocks
from yt8m_ray.inference.predictions.ground_truth import write_truth
from yt8m_ray.inference.predictions.merge import merge_predictions
from yt8m_ray.schema import FRAME_FEATURES, VIDEO_FEATURES

ROOT = Path(__file__).resolve().parents[2]
FRAMES, MEANS = (FeatureSpec(sizes, num_classes=48) for sizes in (FRAME_FEATURES, VIDEO_FEATURES))
REQUIRED = ReadOptions(labels="required")


@pytest.fixture
def cases() -> Path:
    """Returns the folder $YT8M_CASES, else ../shared/cases beside the repository."""
    configured = os.environ.get("YT8M_CASES")
    path = Path(configured) if configured else ROOT.parent / "shared" / "cases"
    if not path.is_dir():
        pytest.skip(f"no reported cases: {path} is not a folder; set YT8M_CASES to one")
    return path.resolve()


def test_values_that_are_not_finite_are_bad_records(cases: Path) -> None:
    path = str(cases / "nan.tfrecord")

    (block,) = read_blocks(path, MEANS, ReadOptions(on_corrupt="skip"))
    survey = survey_shard(path, VIDEO_FEATURES, num_classes=48)

    assert block.videos.records.tolist() == [0, 3, 4]
    assert [rejection.message.removeprefix(path) for rejection in block.rejections] == [
        ": record 1 at byte 4707: mean_rgb: value 5 of 1024 is nan, not a finite number",
        ": record 2 at byte 9414: mean_audio: value 7 of 128 is inf, not a finite number",
    ]
    assert survey.counts.rejected == {"value": 2}
    with pytest.raises(RecordError, match="not a finite number"):
        to_row(decode_record((cases / "nan.pb").read_bytes()), MEANS)


def test_videos_without_labels_are_neither_scored_nor_learned_from(cases: Path, tmp_path: Path) -> None:
    path = str(cases / "all_unlabelled.tfrecord")

    with pytest.raises(ValueError, match="none of the 40 videos has labels"):
        check_first_videos([path], MEANS, REQUIRED, key="data.test")
    with pytest.raises(ValueError, match="none of the 40 videos has labels"):
        write_truth([path], str(tmp_path / "t.csv"), num_classes=48)
    check_first_videos([path], MEANS, ReadOptions(labels="ignored"), key="shards")


def test_rated_segments_are_no_labels_of_their_videos(cases: Path) -> None:
    path = str(cases / "segments.tfrecord")

    (required,), (optional,) = (
        read_blocks(path, FRAMES, options) for options in (REQUIRED, ReadOptions(labels="optional"))
    )

    assert required.videos.video_ids.tolist() == ["v002"]
    assert [rejection.cause for rejection in required.rejections] == [UNLABELLED] * 2
    assert optional.videos.is_labelled.tolist() == [False, False, True]
    assert optional.videos.num_frames.tolist() == [90, 90, 90]


@pytest.mark.parametrize("spec", [FRAMES, MEANS], ids=["frame", "video"])
def test_a_media_sequence_is_named_for_what_it_is(cases: Path, spec: FeatureSpec) -> None:
    with pytest.raises(ValueError, match=r"RGB/feature/floats.* a MediaSequence of MediaPipe"):
        check_first_videos([str(cases / "mediapipe.tfrecord")], spec, REQUIRED, key="data.train")


def test_ground_truth_of_a_media_sequence_is_refused_likewise(cases: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the video has no id; .* a MediaSequence of MediaPipe"):
        write_truth([str(cases / "mediapipe.tfrecord")], str(tmp_path / "t.csv"), num_classes=48)


@pytest.mark.parametrize("name", ["sub_bom.csv", "sub_gz.csv.gz"])
def test_prediction_files_of_other_programs_score_as_the_plain_one(cases: Path, name: str) -> None:
    truth = str(cases / "truth_ok.csv")

    found, expected = (merge_predictions([str(cases / file)], truth=truth) for file in (name, "sub_ok.csv"))

    assert found == expected
    # By hand: v1 has 1 and 7, of which 1 is listed first; v2 has 3, listed first. Of three labels two are found.
    assert (found["hit_at_1"], found["gap"]) == (1.0, pytest.approx(2 / 3))

"""Videos around the means of real ones: what stays theirs, and which split has which."""

from __future__ import annotations

import itertools
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yt8m_ray.data.format.features import FeatureSpec, VideoRow
from yt8m_ray.data.pipeline.shard_reader import read_rows
from yt8m_ray.data.synthetic.config import SynthesisConfig
from yt8m_ray.data.synthetic.video_source import draw_frames_around
from yt8m_ray.data.synthetic.write_shards import synthesize
from yt8m_ray.metrics import build_metric
from yt8m_ray.schema import FRAME_FEATURES, VIDEO_FEATURES

NUM_CLASSES = 12
FRAME_SPEC = FeatureSpec(FRAME_FEATURES, num_classes=NUM_CLASSES)
VIDEO_SPEC = FeatureSpec(VIDEO_FEATURES, num_classes=NUM_CLASSES)


def write(output: Path, *, source: Path | None = None, **changes: Any) -> dict[str, Any]:
    small = {"num_shards": 1, "num_classes": NUM_CLASSES, "min_frames": 8, "max_frames": 12}
    config = SynthesisConfig.model_validate(
        small | {"from_video_level": None if source is None else str(source)} | changes
    )
    shards = [] if source is None else [str(source)]
    return synthesize(config, output, source_shards=shards, new_gap=lambda: build_metric("gap"))


@pytest.fixture(scope="module")
def means(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a video-level shard of 120 videos."""
    folder = tmp_path_factory.mktemp("video_level") / "means"
    write(folder, kind="video", videos_per_shard=120)
    return folder / "train0000.tfrecord"


def rows_of(folder: Path, spec: FeatureSpec) -> list[VideoRow]:
    return [row for path in sorted(folder.glob("*.tfrecord")) for _, row in read_rows(str(path), spec)]


def belongs_to(row: VideoRow, split: str) -> bool:
    return {0: "validate", 1: "test"}.get(zlib.crc32(row.video_id.encode()) % 10, "train") == split


def test_frames_around_a_mean_have_that_mean_and_correlate_with_their_neighbors() -> None:
    mean = np.linspace(-1, 1, 400, dtype=np.float32)

    frames = draw_frames_around(mean, np.random.default_rng(0), 100) * (4 / 255) - 2.0

    assert frames.mean(axis=0) == pytest.approx(mean, abs=0.005)
    deviations = frames - frames.mean(axis=0)
    assert deviations.std() == pytest.approx(0.3, abs=0.01)
    assert (deviations[1:] * deviations[:-1]).sum() / (deviations**2).sum() == pytest.approx(0.275, abs=0.03)


def test_clips_around_real_means_keep_ids_labels_and_means(means: Path, tmp_path: Path) -> None:
    document = write(tmp_path / "clips", source=means, num_shards=2, videos_per_shard=6)

    real = [row for row in rows_of(means.parent, VIDEO_SPEC) if belongs_to(row, "train")][:12]
    clips = rows_of(tmp_path / "clips", FRAME_SPEC)
    assert [row.video_id for row in clips] == [row.video_id for row in real]
    for clip, mean in zip(clips, real, strict=True):
        assert clip.labels.tolist() == mean.labels.tolist()
        assert (clip.frames * (4 / 255) - 2.0).mean(axis=0) == pytest.approx(mean.frames[0], abs=0.006)
    assert document["ideal_scorer_gap"] is None
    assert "synthetic" in document["provenance"] and str(means) in document["provenance"]


def test_splits_around_the_same_real_means_share_no_video(means: Path, tmp_path: Path) -> None:
    ids = {}

    for split in ("train", "validate", "test"):
        document = write(tmp_path / split, source=means, videos_per_shard=3, split=split)
        ids[split] = {row.video_id for row in rows_of(tmp_path / split, FRAME_SPEC)}

    assert len(set.union(*ids.values())) == 9
    assert "CRC-32 modulo 10 is in [1]" in document["provenance"]


def test_clips_around_real_yt8m_means_keep_their_labels(yt8m_data: Path, tmp_path: Path) -> None:
    source = yt8m_data / "yt8m" / "v2_video" / "validate" / "validate0077.tfrecord"

    write(tmp_path / "clips", source=source, num_classes=3862, videos_per_shard=5)

    clips = rows_of(tmp_path / "clips", FeatureSpec(FRAME_FEATURES, num_classes=3862))
    rows = (row for _, row in read_rows(str(source), FeatureSpec(VIDEO_FEATURES, num_classes=3862)))
    real = itertools.islice((row for row in rows if belongs_to(row, "train")), 5)
    assert [row.labels.tolist() for row in clips] == [row.labels.tolist() for row in real]


def test_too_few_real_videos_are_an_error_that_leaves_nothing_behind(means: Path, tmp_path: Path) -> None:
    num_videos = sum(belongs_to(row, "validate") for row in rows_of(means.parent, VIDEO_SPEC))

    with pytest.raises(ValueError, match=f"100 videos are needed, {num_videos} found that belong to validate"):
        write(tmp_path / "clips", source=means, videos_per_shard=100, split="validate")

    assert not list(tmp_path.iterdir())

"""The survey of a data set: its shards in parallel on Ray, with a bar or lines on stderr for the progress."""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
from pydantic import Field, PositiveInt
from tqdm import tqdm

from yt8m_ray.cluster import map_tasks
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.inspection.dataset_manifest import Manifest, differences
from yt8m_ray.data.inspection.dataset_summary import Summary
from yt8m_ray.data.inspection.histograms import write_histograms
from yt8m_ray.data.inspection.shard_counts import ShardSurvey, detect_features, survey_shard
from yt8m_ray.data.storage.filesystem import total_bytes
from yt8m_ray.registry import Config
from yt8m_ray.schema import NUM_CLASSES_2018, VIDEO_FEATURES

logger = logging.getLogger(__name__)

_LINE_INTERVAL_S = 5.0
_MOST_LINES = 10


class InspectionConfig(Config):
    """What is expected of the shards, and what to write besides the summary."""

    num_classes: int = Field(
        default=NUM_CLASSES_2018, ge=1, le=1_000_000, description="valid class ids are 0 to one less"
    )
    features: dict[str, PositiveInt] | None = Field(
        default=None, min_length=1, description="such as rgb=1024,audio=128; default: those of the first record"
    )
    output: str | None = Field(default=None, description="folder for a table and pictures of classes and lengths")
    manifest: str | None = Field(default=None, description="file that says what the shards are meant to be")
    write_manifest: str | None = Field(default=None, description="file to write that says what the shards are")
    num_workers: PositiveInt | None = Field(
        default=None, description="shards read at once; default: as many as the cluster has CPUs"
    )

    @pydantic.field_validator("features", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.split(",")]
        if not all(name and size.isdecimal() for name, _, size in pairs):
            raise ValueError(f"expected NAME=SIZE,..., such as rgb=1024,audio=128, found {value!r}")
        return {name: int(size) for name, _, size in pairs}

    @pydantic.field_validator("output")
    @classmethod
    def _check_output(cls, value: str | None) -> str | None:
        if value is not None and Path(value).exists() and not Path(value).is_dir():
            raise ValueError(f"expected a folder, {value} is a file")
        return value

    @pydantic.field_validator("manifest", "write_manifest")
    @classmethod
    def _check_manifest(cls, value: str | None) -> str | None:
        if value is not None and (not Path(value).absolute().parent.is_dir() or Path(value).is_dir()):
            raise ValueError(f"expected a file in a folder that exists, found {value!r}")
        return value

    @pydantic.model_validator(mode="after")
    def _check_features(self) -> InspectionConfig:
        if self.features is not None:
            FeatureSpec(self.features, self.num_classes)  # its own check: no mixture of video level and frame level
        return self


def inspect_shards(config: InspectionConfig, shards: Sequence[str], *, manifest: Manifest | None = None) -> Summary:
    """Returns what the shards hold and what is wrong with them; nothing that is wrong stops it."""
    started = time.monotonic()
    # Where no record has any features, what the published ones lack says so of each shard.
    sizes = (detect_features(shards) or VIDEO_FEATURES) if config.features is None else config.features
    summary = Summary(shards, sizes, config.num_classes, is_detected=config.features is None)
    survey = functools.partial(survey_shard, sizes=dict(sizes), num_classes=config.num_classes)
    with _Progress(len(shards), total_bytes(shards)) as progress:
        for index, shard in map_tasks(survey, shards, num_workers=config.num_workers):
            summary.add(index, shard)
            progress.add(shard)
    if manifest is not None:
        summary.differences = differences(manifest, summary.entries.values())
    summary.seconds = time.monotonic() - started
    _write(config, summary)
    _log(summary)
    return summary


def _write(config: InspectionConfig, summary: Summary) -> None:
    if config.output is not None:
        write_histograms(summary.counts, config.output, features=summary.sizes, num_classes=config.num_classes)
    if config.write_manifest is None:
        return
    if len(summary.entries) < len(summary.shards):
        logger.error("%s: not written, a shard could not be read", config.write_manifest)
    else:
        Manifest(config.write_manifest, summary.entries.values()).save()


def _log(summary: Summary) -> None:
    """Logs what an operator acts on; the document has all of it."""
    for warning in summary.warnings:
        count = "" if warning["num_videos"] is None else f"{warning['num_videos']} "
        place = "" if warning["first"] is None else f"; the first: {warning['first']}"
        logger.warning("warning: %s%s%s", count, warning["warning"], place)
    failures, duplicates = summary.failures, summary.duplicates
    bad = [failure for failure in failures if "manifest" not in failure.causes]
    for failure in bad[:_MOST_LINES]:
        more = f" (the first of {failure.num_rejected})" if failure.num_rejected > 1 else ""
        logger.error("%s%s", failure.first, more)
    for difference in summary.differences[:_MOST_LINES]:
        logger.error("%s", difference.message)
    for duplicate in duplicates.first[:1]:
        places = ", ".join(f"{summary.shards[shard]} record {record}" for shard, record in duplicate.places[:3])
        logger.error("%d ids occur more than once; the first: %r in %s", duplicates.num_ids, duplicate.video_id, places)
    logger.info(
        "%d of %d shards bad, %d of %d records refused, %d ids more than once%s",
        len(bad),
        len(summary.shards),
        summary.counts.rejected.total(),
        summary.counts.num_records,
        duplicates.num_ids,
        f", {len(summary.differences)} differences from the manifest" if summary.differences else "",
    )


class _Progress:
    """Shards, bytes and videos a second: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, num_shards: int, num_bytes: int) -> None:
        self._num_shards = num_shards
        self._num_bytes = num_bytes
        self._num_done = self._num_videos = self._bytes_done = 0
        self._started_s = self._line_s = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._bar = tqdm(total=num_bytes, unit="B", unit_scale=True, file=sys.stderr, disable=not self._is_terminal)

    def add(self, shard: ShardSurvey) -> None:
        """Counts a shard that has been read."""
        self._num_done += 1
        self._num_videos += shard.counts.num_videos
        self._bytes_done += shard.counts.num_bytes
        now = time.monotonic()
        rate = self._num_videos / max(now - self._started_s, 1e-9)
        state = f"{self._num_done}/{self._num_shards} shards, {self._num_videos} videos, {rate:.0f} videos/s"
        if self._is_terminal:
            self._bar.set_postfix_str(state, refresh=False)
            self._bar.update(shard.counts.num_bytes)
        elif self._num_done == self._num_shards or now - self._line_s >= _LINE_INTERVAL_S:
            self._line_s = now
            sizes = (tqdm.format_sizeof(size, "B") for size in (self._bytes_done, self._num_bytes))
            logger.info("%s, %s of %s", state, *sizes)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

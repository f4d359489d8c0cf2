"""The survey of a data set: its shards in parallel on Ray, with the progress on stderr."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence

from yt8m_ray.cluster import map_tasks
from yt8m_ray.data.inspection.config import InspectionConfig
from yt8m_ray.data.inspection.dataset_manifest import Manifest, differences
from yt8m_ray.data.inspection.dataset_summary import Summary
from yt8m_ray.data.inspection.histograms import write_histograms
from yt8m_ray.data.inspection.shard_counts import detect_features, survey_shard
from yt8m_ray.data.progress import progress_bar
from yt8m_ray.data.storage.filesystem import total_bytes
from yt8m_ray.schema import VIDEO_FEATURES

logger = logging.getLogger(__name__)

_MOST_LINES = 10


def inspect_shards(config: InspectionConfig, shards: Sequence[str], *, manifest: Manifest | None = None) -> Summary:
    """Returns what the shards hold and all that is wrong with them; logs it, and writes what `config` asks for."""
    started = time.monotonic()
    # Without any features in the records, each shard is reported to lack the published ones.
    sizes = (detect_features(shards) or VIDEO_FEATURES) if config.features is None else config.features
    summary = Summary(shards, sizes, config.num_classes, is_detected=config.features is None)
    survey = functools.partial(survey_shard, sizes=dict(sizes), num_classes=config.num_classes)
    with progress_bar(logger, "{desc}, {n_fmt}B of {total_fmt}B", total=total_bytes(shards)) as bar:
        surveys = map_tasks(survey, shards, num_workers=config.num_workers)
        for num_done, (index, shard) in enumerate(surveys, 1):
            summary.add(index, shard)
            num_videos = summary.counts.num_videos
            rate = num_videos / max(time.monotonic() - started, 1e-9)
            state = f"{num_done}/{len(shards)} shards, {num_videos} videos, {rate:.0f} videos/s"
            bar.set_description_str(state, refresh=False)
            bar.update(shard.counts.num_bytes)
        bar.refresh()
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
    """Logs the first of what an operator acts on; the document has all of it."""
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
        logger.error("%s", difference.first)
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

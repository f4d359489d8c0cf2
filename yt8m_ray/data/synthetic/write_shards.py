"""Learnable shards in the exact published formats, and how well they can be learned."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from yt8m_ray.data.format.example import encode_example, encode_sequence_example
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.data.synthetic.config import SynthesisConfig
from yt8m_ray.data.synthetic.planted_labels import PlantedVideo
from yt8m_ray.data.synthetic.video_source import AroundMeansSource, PlantedSource
from yt8m_ray.schema import FRAME_FEATURES, ID_KEYS, LABELS_KEY, VIDEO_FEATURES

DOCUMENT_FILE = "dataset.json"

# Of the first videos, GAP of the ideal scorer and of the one that knows the class frequencies alone is computed: enough
# for two digits, and bounded for any size of data set.
MAX_SCORED_VIDEOS = 2000

logger = logging.getLogger(__name__)


class Ranking(Protocol):
    """A metric of scores [B, C] and labels bool [B, C]; of `metrics`, which this package may not import."""

    def update(self, scores: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None: ...

    def compute(self) -> float: ...


def synthesize(
    config: SynthesisConfig, output: str | Path, *, source_shards: Sequence[str] = (), new_gap: Callable[[], Ranking]
) -> dict[str, Any]:
    """Writes the data set as the folder `output` and returns its `dataset.json`.

    Args:
        output: Does not exist or is empty; it appears when the last shard is written.
        source_shards: The shards that `config.from_video_level` matches, in the order of use.

    Raises:
        ValueError: `output` holds something, or the source holds too few videos.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output}: expected a folder that is empty or does not exist yet")
    # What a killed call has left there is removed.
    aside = output.with_name(f".{output.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        document = _write_shards(config, aside, source_shards, new_gap)
        (aside / DOCUMENT_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        os.replace(aside, output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return document


def _write_shards(
    config: SynthesisConfig, folder: Path, source_shards: Sequence[str], new_gap: Callable[[], Ranking]
) -> dict[str, Any]:
    is_planted = config.from_video_level is None
    source = PlantedSource(config) if is_planted else AroundMeansSource(config, source_shards)
    ideal, class_prior = new_gap(), new_gap()
    counts = dict.fromkeys(("num_videos", "num_labels", "num_frames"), 0)
    for shard in range(config.num_shards):
        started = time.monotonic()
        payloads = []
        for video_id, video in source.draw(shard):
            payloads.append(_encode(video_id, video))
            if counts["num_videos"] < MAX_SCORED_VIDEOS:
                labels = np.zeros((1, config.num_classes), dtype=np.bool_)
                labels[0, video.class_ids] = True
                class_prior.update(source.class_probabilities[np.newaxis], labels)
                # Of real videos no ideal scorer is known.
                if isinstance(source, PlantedSource):
                    ideal.update(source.score(video)[np.newaxis], labels)
            counts["num_videos"] += 1
            counts["num_labels"] += len(video.class_ids)
            counts["num_frames"] += len(video.features) if config.kind == "frame" else 0
        name = f"{config.split}{shard:04d}.tfrecord"
        write_records(str(folder / name), payloads)
        rate = len(payloads) / (time.monotonic() - started)
        logger.info("%s: shard %d of %d, %.0f videos a second", name, shard + 1, config.num_shards, rate)
    return {
        **config.model_dump(mode="json"),
        **counts,
        "features": FRAME_FEATURES if config.kind == "frame" else VIDEO_FEATURES,
        "num_scored_videos": min(counts["num_videos"], MAX_SCORED_VIDEOS),
        "ideal_scorer_gap": ideal.compute() if is_planted else None,
        "class_prior_gap": class_prior.compute(),
        "provenance": source.provenance,
    }


def _encode(video_id: str, video: PlantedVideo) -> bytes:
    context: dict[str, Any] = {ID_KEYS[0]: [video_id.encode()], LABELS_KEY: video.class_ids}
    is_video_level = video.features.ndim == 1
    sizes = VIDEO_FEATURES if is_video_level else FRAME_FEATURES
    parts = np.split(video.features, np.cumsum(list(sizes.values()))[:-1], axis=-1)
    features = dict(zip(sizes, parts, strict=True))
    return encode_example(context | features) if is_video_level else encode_sequence_example(context, features)

"""A whole data set: the sum of its shards, what is wrong with them, and what is odd."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.inspection.dataset_manifest import Failure, ShardEntry
from yt8m_ray.data.inspection.duplicates import Duplicates, find_duplicates
from yt8m_ray.data.inspection.shard_counts import Remark, ShardSurvey, Survey
from yt8m_ray.data.pipeline.read_position import CAUSES
from yt8m_ray.schema import FRAME_FEATURES, ID_KEYS, MAX_FRAMES, NUM_CLASSES_2017, NUM_CLASSES_2018, VIDEO_FEATURES

_REMARKS: dict[Remark, str] = {
    "unlabelled": "videos without labels among labelled ones; training and evaluation leave them out",
    "no_class": "videos whose list of labels is empty; they count as videos of no class",
    "repeated_labels": "videos that list a class id twice; it counts once",
    "long_clips": f"videos of more than {MAX_FRAMES} frames; readers drop the rest (data.max_frames)",
    "empty_clips": "videos of 0 frames",
    "averaged_frames": "videos at frame level, read as the means of their frames",
}


@dataclass
class Summary:
    """The surveys of a data set's shards together; they are added in any order."""

    # All paths, in the order of the data set.
    shards: Sequence[str]
    # The features that every record had to have; found in the first record, or given.
    sizes: Mapping[str, int]
    num_classes: int
    is_detected: bool = True
    counts: Survey = field(default_factory=Survey)
    # By path, of each shard that could be read.
    entries: dict[str, ShardEntry] = field(default_factory=dict)
    # From the manifest.
    differences: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
    _failures: dict[str, Failure] = field(default_factory=dict)
    _ids: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def add(self, shard: int, survey: ShardSurvey) -> None:
        """Adds what the shard of this number holds."""
        counts, path = survey.counts, survey.path
        if survey.unreadable is not None:
            self._failures[path] = Failure(path, {"unreadable": 1}, survey.unreadable)
            return
        if survey.first_rejection is not None:
            self._failures[path] = Failure(path, dict(sorted(counts.rejected.items())), survey.first_rejection)
        self.counts.merge(counts)
        same = {name: getattr(counts, name) for name in ("num_records", "num_videos", "num_frames")}
        self.entries[path] = ShardEntry(path=path, bytes=counts.num_bytes, crc32c=survey.crc32c, **same)
        self._ids[shard] = survey.keys, survey.records

    @property
    def failures(self) -> list[Failure]:
        """What is wrong, in the order of the shards; a shard has a failure for each difference from its manifest."""
        return sorted([*self._failures.values(), *self.differences], key=lambda failure: failure.shard)

    @functools.cached_property
    def duplicates(self) -> Duplicates:
        """Videos that share an id; found once, after the last shard was added."""
        numbers = sorted(self._ids)
        keys = np.concatenate([np.empty((0, 2), np.uint64), *(self._ids[number][0] for number in numbers)])
        records = np.concatenate([np.empty(0, np.int32), *(self._ids[number][1] for number in numbers)])
        lengths = [len(self._ids[number][1]) for number in numbers]
        # The ids of millions of videos should not be in memory twice.
        self._ids.clear()
        return find_duplicates(keys, np.repeat(np.array(numbers, np.int32), lengths), records)

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong; warnings alone are nothing wrong."""
        return not self.failures and not self.duplicates.num_ids

    @property
    def is_video_level(self) -> bool:
        return FeatureSpec(self.sizes, self.num_classes).is_video_level

    @property
    def warnings(self) -> list[dict[str, Any]]:
        """What is odd but no failure: a sentence, how many videos it concerns, and where the first is."""
        remarks = dict(self.counts.remarks)
        if self.counts.num_unlabelled == self.counts.num_videos:
            # A test set: all its videos are without labels.
            remarks.pop("unlabelled", None)
        sentences = filter(None, (self._feature_warning(), self._id_warning(), self._class_warning()))
        return [
            *(
                {"warning": sentence, "num_videos": remarks[remark][0], "first": remarks[remark][1]}
                for remark, sentence in _REMARKS.items()
                if remark in remarks
            ),
            *({"warning": sentence, "num_videos": None, "first": None} for sentence in sentences),
        ]

    def document(self) -> dict[str, Any]:
        """Returns everything as JSON's types."""
        counts = self.counts
        return {
            "num_shards": len(self.shards),
            "num_records": counts.num_records,
            "num_videos": counts.num_videos,
            "num_frames": counts.num_frames,
            "bytes": counts.num_bytes,
            "level": "video" if self.is_video_level else "frame",
            "features": dict(self.sizes),
            "num_classes": self.num_classes,
            "num_classes_seen": int(np.count_nonzero(counts.class_counts)),
            "max_class_id": None if counts.max_class_id < 0 else counts.max_class_id,
            "frames_per_video": _spread(counts.clips),
            "labels_per_video": _spread(counts.labels),
            "num_unlabelled": counts.num_unlabelled,
            "id_keys": {name: self._num_with_key(name) for name in ID_KEYS},
            "keys": [
                {"key": name, "place": place, "kind": kind, "num_records": count, "min_size": least, "max_size": most}
                for (place, name, kind), (count, least, most) in sorted(counts.keys.items())
            ],
            "compression": dict(sorted(counts.compressions.items())),
            "rejected": {cause: counts.rejected[cause] for cause in CAUSES},
            "duplicates": self._duplicates_document(),
            "seconds": round(self.seconds, 3),
            "videos_per_s": round(counts.num_videos / max(self.seconds, 1e-9), 1),
            "warnings": self.warnings,
            "failures": [failure.document() for failure in self.failures],
        }

    def _duplicates_document(self) -> dict[str, Any]:
        shown = [
            {
                "id": duplicate.video_id,
                "places": [{"shard": self.shards[shard], "record": record} for shard, record in duplicate.places],
            }
            for duplicate in self.duplicates.first
        ]
        return {**asdict(self.duplicates), "first": shown}

    def _num_with_key(self, name: str) -> int:
        return sum(
            count for (place, key, _), (count, _, _) in self.counts.keys.items() if (place, key) == ("context", name)
        )

    def _feature_warning(self) -> str | None:
        published = VIDEO_FEATURES if self.is_video_level else FRAME_FEATURES
        if not self.is_detected or dict(self.sizes) == published:
            return None
        found, usual = (
            ", ".join(f"{name}={size}" for name, size in sizes.items()) for sizes in (self.sizes, published)
        )
        hint = "set features to what is expected"
        return f"the first record has the features {found}, the published ones are {usual}; {hint}"

    def _id_warning(self) -> str | None:
        found = {name: count for name in ID_KEYS if (count := self._num_with_key(name))}
        if len(found) < 2:
            return None
        records = ", ".join(f"{name} in {count} records" for name, count in found.items())
        return f"ids have several keys: {records}; the releases of 2017 and of 2018 have different classes"

    def _class_warning(self) -> str | None:
        highest = self.counts.max_class_id
        if highest < self.num_classes:
            return None
        is_of_2017 = self.num_classes == NUM_CLASSES_2018 and highest < NUM_CLASSES_2017
        hint = f"; the release of 2017 needs num_classes {NUM_CLASSES_2017}" if is_of_2017 else ""
        return f"class ids up to {highest} are in use, valid are 0 to {self.num_classes - 1}{hint}"


def _spread(counts: Counter[int]) -> dict[str, float] | None:
    """Returns the least, the mean and the most of values that occur so often; None where there is none."""
    total = counts.total()
    if not total:
        return None
    mean = sum(value * count for value, count in counts.items()) / total
    return {"min": min(counts), "mean": round(mean, 4), "max": max(counts)}

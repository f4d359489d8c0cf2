"""A teacher's scores of every video of some shards, looked up batch by batch while a student trains."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from yt8m_ray.data.labels.soft_label_files import SoftLabelIndex, join, shard_name
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.storage.filesystem import read_bytes
from yt8m_ray.local_files import check_regular

_MOST_OPEN_BYTES = 1 << 29
# Each mapped file may hold a descriptor, and the limit of a process is often 1,024.
_MOST_OPEN_FILES = 256
_ONE = np.float16(1).view(np.uint16)


@dataclass(frozen=True)
class _Labels:
    """The labels of one file: scores float16 [N, K] and class ids [N, K], or [N, 0] where the scores are of all."""

    path: str
    records: np.ndarray
    video_ids: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    num_bytes: int


class SoftLabels:
    """The teacher's scores of the videos of shards, looked up batch by batch.

    Args:
        folder: What `yt8m distill` wrote; local, `s3://` or `gs://`.
        shards: Paths, to which the videos' shard numbers refer. Only their names count: the data may have moved.

    Raises:
        ValueError: the labels are of other classes or in the published format, or those of a shard are missing or
            ambiguous.
        FileNotFoundError: the folder holds no finished set.
    """

    def __init__(self, folder: str, shards: Sequence[str], num_classes: int) -> None:
        index = SoftLabelIndex.load(folder)
        if index.format == "tfrecord":
            raise ValueError(f"{folder}: holds TFRecords for the published reader; make labels of the default format")
        if index.num_classes != num_classes:
            raise ValueError(f"{folder}: the teacher has {index.num_classes} classes, the student {num_classes}")
        self._num_classes, self._shards = num_classes, list(shards)
        self._files = [join(folder, name) for name in _files_of(self._shards, index, folder)]
        self._open: OrderedDict[int, _Labels] = OrderedDict()
        self._open_bytes = 0

    @property
    def num_open(self) -> int:
        """Files that are open."""
        return len(self._open)

    def lookup(self, videos: PackedVideos, device: torch.device | str = "cpu") -> torch.Tensor:
        """Returns the scores of the videos, float32 [B, C] on `device`; 0 for classes that were left out.

        Raises:
            ValueError: the labels of a record are missing, those of another video, or no scores of the classes.
        """
        parts, places = [], []
        for shard in np.unique(videos.shards).tolist():
            mine = np.flatnonzero(videos.shards == shard)
            places.append(mine)
            parts.append(self._lookup(shard, videos.records[mine], videos.video_ids[mine]))
        if not parts:
            return torch.zeros(0, self._num_classes, device=device)
        # Back from the order of the shards to that of the videos.
        order = np.argsort(np.concatenate(places))
        scores, class_ids = (np.concatenate(arrays)[order] for arrays in zip(*parts, strict=True))
        found = torch.from_numpy(scores).to(device).float()
        if not class_ids.shape[1]:
            return found
        columns = torch.from_numpy(class_ids.astype(np.int64)).to(device)
        return torch.zeros(len(found), self._num_classes, device=device).scatter_(1, columns, found)

    def _lookup(self, shard: int, records: np.ndarray, video_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels = self._labels(shard)
        rows = np.searchsorted(labels.records, records)
        # A record that is there stands between its two places.
        is_missing = rows == np.searchsorted(labels.records, records, side="right")
        if is_missing.any():
            first = int(np.argmax(is_missing))
            raise ValueError(
                f"{self._shards[shard]}: record {records[first]}: expected labels of video {video_ids[first]!r}, found "
                f"none in {labels.path}"
            )
        is_other = labels.video_ids[rows] != video_ids
        if is_other.any():
            first = int(np.argmax(is_other))
            raise ValueError(
                f"{self._shards[shard]}: record {records[first]}: expected labels of video {video_ids[first]!r}, found "
                f"those of {labels.video_ids[rows[first]]!r} in {labels.path}"
            )
        scores, class_ids = labels.scores[rows], labels.class_ids[rows]
        _check_scores(scores, video_ids, labels.path)
        if class_ids.max(initial=0) >= self._num_classes:
            raise ValueError(f"{labels.path}: expected class ids below {self._num_classes}, found {class_ids.max()}")
        return scores, class_ids

    def _labels(self, shard: int) -> _Labels:
        """Returns the labels of a shard, and closes those used least recently where all together grow large."""
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        labels = _read(self._files[shard])
        self._open[shard] = labels
        self._open_bytes += labels.num_bytes
        # The file in use stays open, however large it is.
        while len(self._open) > 1 and (self._open_bytes > _MOST_OPEN_BYTES or len(self._open) > _MOST_OPEN_FILES):
            self._open_bytes -= self._open.popitem(last=False)[1].num_bytes
        return labels


def _check_scores(scores: np.ndarray, video_ids: np.ndarray, path: str) -> None:
    # As unsigned integers, float16 values from 0 on keep their order: some ten times faster than comparing halves.
    if (scores.view(np.uint16) <= _ONE).all():
        return
    is_bad = ~((scores >= 0) & (scores <= 1))
    # -0.0 is a score too.
    if is_bad.any():
        row, column = np.argwhere(is_bad)[0]
        found = scores[row, column]
        raise ValueError(f"{path}: video {video_ids[row]!r}: expected scores in 0 to 1, found {found:g}")


def _files_of(shards: Sequence[str], index: SoftLabelIndex, folder: str) -> list[str]:
    files = {entry.name: entry.file for entry in index.shards}
    paths: dict[str, str] = {}
    for path in shards:
        name = shard_name(path)
        if paths.setdefault(name, path) != path:
            raise ValueError(f"{folder}: {paths[name]} and {path} have one name, by which labels are found")
        if name not in files:
            raise ValueError(f"{folder}: no labels of {path}, only of {len(files)} other shards; label it too")
    return [files[shard_name(path)] for path in shards]


def _read(path: str) -> _Labels:
    if "://" in path:
        source = pa.BufferReader(read_bytes(path))
    else:
        check_regular(path)
        source = pa.memory_map(path)
    try:
        table = pa.ipc.open_file(source).read_all()
        # Arrow trusts the lengths in a file, and ends the process at one that is wrong.
        table.validate(full=True)
        _check_schema(table)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise ValueError(f"{path}: no file of soft labels: {' '.join(str(error).split())}") from None
    return _Labels(
        path,
        records=table["record"].to_numpy(),
        video_ids=np.array(table["video_id"].to_pylist(), dtype=object),
        scores=_matrix(table, "scores"),
        class_ids=_matrix(table, "class_ids") if "class_ids" in table.column_names else np.empty((len(table), 0)),
        num_bytes=table.nbytes,
    )


def _check_schema(table: pa.Table) -> None:
    types = dict(zip(table.schema.names, table.schema.types, strict=True))
    lists = {name: kind for name, kind in types.items() if pa.types.is_fixed_size_list(kind)}
    values = {name: kind.value_type for name, kind in lists.items()}
    is_known = (
        types.get("record") == pa.int32()
        and types.get("video_id") == pa.string()
        and values.get("scores") == pa.float16()
        and values.get("class_ids", pa.uint16()) in (pa.uint16(), pa.uint32())
        and len({kind.list_size for kind in lists.values()}) == 1
    )
    if not is_known or any(column.null_count for column in table.columns) or table["scores"].num_chunks > 1:
        raise ValueError(f"its columns are {', '.join(f'{name} {kind}' for name, kind in types.items())}")


def _matrix(table: pa.Table, name: str) -> np.ndarray:
    """Returns a column of lists of one length as an array [N, K], without a copy."""
    column = table[name]
    values: np.ndarray = column.chunk(0).flatten().to_numpy() if column.num_chunks else np.empty(0)
    return values.reshape(len(table), column.type.list_size)

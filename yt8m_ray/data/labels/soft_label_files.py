"""The files of a soft-label data set: NAME.arrow for the shard NAME.tfrecord, and index.json, which is written last."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pydantic
from pydantic import NonNegativeInt, PositiveInt

from yt8m_ray.data.format.example import encode_sequence_example
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.storage.filesystem import read_bytes
from yt8m_ray.data.storage.folders import is_remote, join_uri
from yt8m_ray.json_document import parse_json
from yt8m_ray.local_files import replace_file
from yt8m_ray.registry import Config, first_fault

INDEX_FILE = "index.json"

# The best entries, all of them, or the published format, which `SoftLabels` does not read.
LabelFormat = Literal["top", "dense", "tfrecord"]

_SHARD_SUFFIX = ".tfrecord"


class LabelledShard(Config):
    """A finished file."""

    # Of the shard, without folder, and of the file beside the index.
    name: str
    file: str
    bytes: NonNegativeInt
    # Good and bad.
    num_records: NonNegativeInt
    num_videos: NonNegativeInt


class SoftLabelJob(Config):
    """What all files of a folder have in common."""

    version: Literal[1] = 1
    # The version of the teacher: a hash of its files.
    teacher: str
    format: LabelFormat
    num_classes: PositiveInt
    # Entries a video; all classes unless the format is `top`.
    num_entries: PositiveInt


class SoftLabelIndex(SoftLabelJob):
    """index.json."""

    shards: list[LabelledShard]

    def save(self, folder: Path) -> None:
        """Writes the index, a line for each shard."""
        facts = json.dumps(self.model_dump(exclude={"shards"}))
        lines = ",\n".join(f"    {shard.model_dump_json()}" for shard in self.shards)
        text = f'{facts[:-1]}, "shards": [\n{lines}\n]}}\n'
        replace_file(folder / INDEX_FILE, lambda aside: aside.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, folder: str) -> SoftLabelIndex:
        """Returns the index of a folder or of a URI; FileNotFoundError where `yt8m distill` has not finished."""
        path = join(folder, INDEX_FILE)
        try:
            return cls.model_validate(parse_json(read_bytes(path), where=path))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{folder}: no {INDEX_FILE}; expected a folder that `yt8m distill` has finished (interrupted, the same "
                "command goes on)"
            ) from None
        except pydantic.ValidationError as error:
            raise ValueError(f"{path}: no index of soft labels: {first_fault(error)}") from None


def shard_name(path: str) -> str:
    """Returns the name of a shard without its folder: the data may have moved since it was labelled."""
    return path.partition("?")[0].rpartition("/")[2] if "://" in path else os.path.basename(path)


def label_file(name: str, label_format: LabelFormat) -> str:
    """Returns the name of the file with the labels of a shard."""
    # The published reader takes any name that its glob matches; only the published writer numbered its files.
    if label_format == "tfrecord":
        return name if name.endswith(_SHARD_SUFFIX) else name + _SHARD_SUFFIX
    return name.removesuffix(_SHARD_SUFFIX) + ".arrow"


def join(folder: str, name: str) -> str:
    """Returns the path of a file in a folder; a URI keeps its query."""
    return join_uri(folder, name) if is_remote(folder) else os.path.join(folder, name)


def to_label_table(
    records: np.ndarray, video_ids: Sequence[str], scores: np.ndarray, class_ids: np.ndarray
) -> pa.Table:
    """Returns videos as the rows of a file.

    Args:
        records: int32 [N].
        scores: float16 [N, K]: their error of 1/2048 of a probability is far below a teacher's own.
        class_ids: uint16 or uint32 [N, K]; [N, 0] where the scores are of all classes in order.
    """
    columns = {"record": pa.array(records, pa.int32()), "video_id": pa.array(video_ids, pa.string())}
    for name, values in (("class_ids", class_ids), ("scores", scores)):
        if values.shape[1]:
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.table(columns)


def write_labels(path: Path, parts: Sequence[pa.Table]) -> None:
    """Writes the rows of a shard in the order of their records."""
    table = pa.concat_tables(parts).sort_by("record").combine_chunks()

    def write(aside: Path) -> None:
        # Not compressed: a local file is mapped, and a lookup touches only the rows that it needs.
        with pa.ipc.new_file(str(aside), table.schema) as writer:
            writer.write_table(table)

    replace_file(path, write)


def encode_published(
    video_id: str, frames: np.ndarray, labels: np.ndarray | None, scores: np.ndarray, *, spec: FeatureSpec
) -> bytes:
    """Returns the SequenceExample of a video as the 2018 winner's `prepare_distill_dataset.py` writes it.

    Args:
        frames: uint8 [T, D], the bytes as they were in the shard.
        labels: Class ids; None leaves their key out.
        scores: float32 [C], under the key `predictions`.
    """
    parts = np.split(frames, np.cumsum(list(spec.sizes.values()))[:-1], axis=1)
    known = {} if labels is None else {"labels": labels}
    context: dict[str, Any] = {"video_id": [video_id.encode()], **known, "predictions": scores}
    return encode_sequence_example(context, dict(zip(spec.sizes, parts, strict=True)))

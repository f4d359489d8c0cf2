"""The shards of a split as a dataset of MLflow: a name, a digest, and what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from mlflow.entities import Dataset, DatasetInput, InputTag

from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.inspection.dataset_manifest import Manifest
from yt8m_ray.data.storage.filesystem import file_sizes

Context = Literal["training", "validation", "test"]

_DIGEST_CHARACTERS = 16
_CONTEXT_TAG = "mlflow.data.context"


@dataclass(frozen=True)
class ShardSet:
    """The shards of a split as MLflow shows them."""

    name: str  # the end of their folder
    digest: str
    context: Context
    source: str  # their folder, or its URI
    columns: tuple[tuple[str, str], ...]  # (feature, type)
    counts: dict[str, int]

    def as_input(self) -> DatasetInput:
        """Returns what MLflow logs."""
        columns = [{"name": name, "type": kind} for name, kind in self.columns]
        dataset = Dataset(
            self.name,
            self.digest,
            source_type=self.source.partition("://")[0] if "://" in self.source else "local",
            source=json.dumps({"uri": self.source}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps(self.counts),
        )
        return DatasetInput(dataset, [InputTag(_CONTEXT_TAG, self.context)])


def describe_shards(
    shards: Sequence[str], context: Context, spec: FeatureSpec, manifest: Manifest | None = None
) -> ShardSet:
    """Returns shards as MLflow shows them; nothing of them is read but their sizes.

    The digest is of their names and sizes, with a manifest of their checksums too: the same shards in another folder
    have the same.
    """
    counts = {"num_shards": len(shards)}
    if manifest is None:
        sizes = file_sizes(shards)
        facts = {shard: str(sizes[shard]) for shard in shards}
        counts["num_bytes"] = sum(sizes[shard] or 0 for shard in shards)
    else:
        entries = manifest.entries
        facts = {shard: f"{entries[shard].bytes} {entries[shard].crc32c}" for shard in shards}
        counts["num_bytes"] = sum(entries[shard].bytes for shard in shards)
        counts["num_rows"] = manifest.num_videos_of(shards)  # the page's word for it
    lines = sorted(f"{PurePath(shard).name} {facts[shard]}" for shard in shards)
    folder = _common_folder(shards)
    frames = "" if spec.is_video_level else "frames, "
    return ShardSet(
        name="/".join(PurePath(folder.rpartition("://")[2]).parts[-2:]) or context,
        digest=hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_DIGEST_CHARACTERS],
        context=context,
        source=folder,
        columns=(
            *((name, f"{spec.dtype}[{frames}{size}]") for name, size in spec.sizes.items()),
            ("labels", f"class ids below {spec.num_classes}"),
        ),
        counts=counts,
    )


def _common_folder(shards: Sequence[str]) -> str:
    """Returns the folder, or its URI, that all shards lie below."""
    parts = [shard.split("/")[:-1] for shard in shards]
    first, last = min(parts), max(parts)
    num_same = next(
        (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first)
    )
    return "/".join(first[:num_same])

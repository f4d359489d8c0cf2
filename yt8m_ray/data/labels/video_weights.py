"""How much each video counts in a loss: a Parquet file with a weight for each id, which `yt8m boost` writes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from yt8m_ray.data.storage.filesystem import read_bytes
from yt8m_ray.local_files import replace_file

_SCHEMA = pa.schema([("video_id", pa.string()), ("weight", pa.float32())])
# Hashes in place of the ids, which take some 60 bytes each as strings.
_HASH_BYTES = 8
# Keeps the weights of a model without errors finite.
_LEAST_ERROR = 1e-6


class VideoWeights:
    """The weights of videos, 12 bytes each.

    Args:
        weights: Float [N], of a mean of 1 where the loss is to keep its size.

    Raises:
        ValueError: an id is there twice, or a weight is negative or no number.
    """

    def __init__(self, video_ids: Sequence[str], weights: np.ndarray, *, path: str = "weights") -> None:
        hashes = _hashes(video_ids)
        order = np.argsort(hashes, kind="stable")
        self._path = path
        self._hashes, self._weights = hashes[order], weights[order].astype(np.float32)
        twice = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        # Different ids share a hash with a chance of one in a million among all of YouTube-8M.
        if len(twice):
            raise ValueError(f"{path}: video {video_ids[order[twice[0] + 1]]!r} is there twice")
        is_bad = ~(np.isfinite(weights) & (weights >= 0))
        if is_bad.any():
            first = int(np.argmax(is_bad))
            raise ValueError(f"{path}: video {video_ids[first]!r} has the weight {weights[first]}; expected 0 or more")

    def __len__(self) -> int:
        return len(self._hashes)

    @classmethod
    def load(cls, path: str | Path) -> VideoWeights:
        """Returns the weights of a file, local, `s3://` or `gs://`; ValueError where it is no such file."""
        source = pa.BufferReader(read_bytes(str(path)))
        try:
            table = pq.read_table(source)
            if not set(_SCHEMA.names) <= set(table.column_names):
                raise ValueError(f"expected the columns video_id and weight, found {table.column_names}")
            # Other programs write float64 or large strings.
            table = table.select(_SCHEMA.names).cast(_SCHEMA)
            if any(column.null_count for column in table.columns):
                raise ValueError("expected an id and a weight in each row, found one without")
            video_ids = table["video_id"].to_pylist()
        except (pa.ArrowException, ValueError, OSError) as error:
            raise ValueError(f"{path}: no Parquet file of weights: {' '.join(str(error).split())}") from None
        return cls(video_ids, table["weight"].to_numpy(), path=str(path))

    def lookup(self, video_ids: Sequence[str]) -> np.ndarray:
        """Returns the weights of videos, float32 [B]; ValueError names the first that has none."""
        hashes = _hashes(video_ids)
        places = np.searchsorted(self._hashes, hashes)
        is_missing = places == np.searchsorted(self._hashes, hashes, side="right")
        if is_missing.any():
            first = video_ids[int(np.argmax(is_missing))]
            raise ValueError(f"{self._path}: no weight for video {first!r}, only for {len(self)} others")
        weights: np.ndarray = self._weights[places]
        return weights


def save_weights(path: str | Path, video_ids: Sequence[str], weights: np.ndarray) -> None:
    """Writes a weight for each video."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table([pa.array(video_ids, pa.string()), pa.array(weights, pa.float32())], schema=_SCHEMA)
    replace_file(path, lambda aside: pq.write_table(table, aside))


def boost(weights: np.ndarray, errors: np.ndarray, *, most: float | None = None) -> np.ndarray:
    """Returns weights by which the videos that a model errs on count more, float64 [N], of a mean of 1.

    The rule is that of AdaBoost.R2 (Drucker 1997) and, for weights of 1, of the monkeytyping team of 2017.

    Args:
        errors: [N], in 0..1.
        most: Larger weights are cut to this before they are divided by their mean.

    Raises:
        ValueError: there is no video, or the mean error is one half or more.
    """
    if not len(weights) or not weights.sum():
        raise ValueError("boosting: there is no video with a weight")
    mean_error = max(float(np.average(errors, weights=weights)), _LEAST_ERROR)
    # From one half on, the rule would prefer the videos that the model is good at.
    if mean_error >= 0.5:
        raise ValueError(f"boosting: expected a mean error below 0.5, found {mean_error:.4f}; train the model longer")
    boosted: np.ndarray = weights * ((1 - mean_error) / mean_error) ** errors
    if most is not None:
        boosted = np.minimum(boosted, most)
    normalized: np.ndarray = boosted / boosted.mean()
    return normalized


def _hashes(video_ids: Sequence[str]) -> np.ndarray:
    digests = (hashlib.blake2b(video_id.encode(), digest_size=_HASH_BYTES).digest() for video_id in video_ids)
    return np.frombuffer(b"".join(digests), np.uint64)

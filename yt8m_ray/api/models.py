"""Models for Python: load one and predict, create one, list them; losses, metrics and the vocabulary."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yt8m_ray.artifacts.checkpoint import initialize
from yt8m_ray.components import LOSSES, MODELS
from yt8m_ray.data.format.example import decode_record
from yt8m_ray.data.format.features import FeatureSpec, VideoRow, to_row
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.data.pipeline.batches import batches_of
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.read_options import OnCorruptPolicy, ReadOptions
from yt8m_ray.data.pipeline.shard_reader import read_blocks
from yt8m_ray.data.pipeline.shards import expand_shards
from yt8m_ray.errors import InputError
from yt8m_ray.inference.locate import locate_checkpoint
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.losses import Loss, build_loss
from yt8m_ray.metrics import METRICS, Metric, build_metric
from yt8m_ray.models import Model, build_model
from yt8m_ray.schema import (
    DEQUANTIZATION_OFFSET,
    DEQUANTIZATION_SCALE,
    FRAME_FEATURES,
    NUM_CLASSES_2018,
    VIDEO_FEATURES,
)

logger = logging.getLogger(__name__)

_BATCH_SIZE = 64
# The features of the two published data sets, by the name of their level.
_FEATURES = {"frame": FRAME_FEATURES, "video": VIDEO_FEATURES}

Array = npt.NDArray[Any]
Video = Array | Mapping[str, Any]


@dataclass(frozen=True)
class Prediction:
    """The best classes of a video, best first; a class without a name has None."""

    video_id: str
    class_ids: list[int]
    scores: list[float]
    names: list[str | None]


class LoadedModel:
    """A model with all that its inputs and outputs need: `load` returns one.

    Attributes:
        module: The torch module, in eval mode: `module(frames, num_frames) -> logits`.
        features: Values a frame of each feature, by name, in the order in which they are concatenated.
        version: A short hash of the files that were loaded.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.module: Model = predictor.model
        self.features = dict(predictor.spec.sizes)
        self.version = predictor.version

    @property
    def num_classes(self) -> int:
        """Classes that are scored."""
        return self._predictor.spec.num_classes

    @property
    def is_video_level(self) -> bool:
        """Whether a video is one vector of means instead of frames."""
        return self._predictor.spec.is_video_level

    @property
    def vocabulary(self) -> Vocabulary:
        """Names of the classes."""
        return self._predictor.vocabulary

    def predict(self, videos: Sequence[Video] | Array, *, top_k: int = 20) -> list[Prediction]:
        """Returns the best classes of each video; its id is its number.

        Args:
            videos: Each an array of the features side by side, or a mapping of arrays by the names of `features`: at
                frame level [T, D] uint8 as stored, or floats in -2..2, which are rounded to those 256 values; at video
                level floats [D]. `[B, T, D]` or `[B, D]` is a sequence of them.
        """
        rows = [_to_row(str(number), video, self._predictor.spec) for number, video in enumerate(videos)]
        return list(self._predict_rows(rows, top_k))

    def predict_records(self, records: Iterable[bytes], *, top_k: int = 20) -> list[Prediction]:
        """Returns the best classes of serialized Examples or SequenceExamples; RecordError where one does not fit."""
        rows = [to_row(decode_record(record), self._predictor.spec, labelled=False) for record in records]
        return list(self._predict_rows(rows, top_k))

    def predict_shards(
        self, shards: str | Sequence[str], *, top_k: int = 20, on_corrupt: OnCorruptPolicy = "fail"
    ) -> Iterator[Prediction]:
        """Yields the best classes of each video of shards, in order, in this process; errors as in `read_videos`."""
        options = ReadOptions(labels="ignored", on_corrupt=on_corrupt)
        for shard in expand_shards(shards, key="shards"):
            for block in read_blocks(shard, self._predictor.spec, options):
                yield from self._predict_packed(block.videos, top_k)

    def _predict_rows(self, rows: Sequence[VideoRow], top_k: int) -> Iterator[Prediction]:
        if rows:
            yield from self._predict_packed(PackedVideos.from_rows(rows, self._predictor.spec), top_k)

    def _predict_packed(self, videos: PackedVideos, top_k: int) -> Iterator[Prediction]:
        for batch in batches_of([videos], batch_size=_BATCH_SIZE):
            best = self._predictor.predict(batch, top_k)
            for video_id, class_ids, scores in zip(
                batch.video_ids.tolist(), best.class_ids.tolist(), best.scores.tolist(), strict=True
            ):
                yield Prediction(video_id, class_ids, scores, [self.vocabulary.name(each) for each in class_ids])


def load(model: str | Path, *, device: str = "cpu", ema: bool | None = None) -> LoadedModel:
    """Returns the model that a name means, ready to predict.

    Args:
        model: A run's folder, a checkpoint, a bundle's folder or tar, here or in an object store, or `models:/...` or
            `runs:/...` in MLflow.
        ema: Whether to take a checkpoint's moving average of the weights; None takes what was validated.

    Raises:
        YT8MError: there is no such model, or it is damaged; the message says what there is.
    """
    return LoadedModel(Predictor.from_path(model, device=device, ema=ema))


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names of models that match a pattern such as `*vlad*`."""
    return fnmatch.filter(MODELS.names(), pattern)


def create_model(
    name: str,
    *,
    features: str | Mapping[str, int] = "frame",
    num_classes: int = NUM_CLASSES_2018,
    weights: str | Path | None = None,
    **settings: Any,
) -> Model:
    """Returns a new model in training mode.

    Args:
        name: One of `list_models()`.
        features: `frame`, `video`, or sizes by name.
        weights: A checkpoint, by any name that `load` takes, whose weights are copied where name and shape fit.
        settings: Of the model, as in a config: `create_model("netvlad", num_clusters=64)`.

    Raises:
        ValueError: an unknown name or setting, or a value out of range.
    """
    if isinstance(features, str):
        if features not in _FEATURES:
            raise InputError(f"features: expected frame, video or sizes by name, found {features!r}")
        features = _FEATURES[features]
    model = build_model({"name": name, **settings}, feature_sizes=list(features.values()), num_classes=num_classes)
    if weights is not None and (new := initialize(model, locate_checkpoint(weights))):
        logger.warning("%s: not in the checkpoint, and new: %s", weights, ", ".join(new))
    return model


def list_losses() -> list[str]:
    """Returns the names of losses."""
    return LOSSES.names()


def create_loss(name: str, **settings: Any) -> Loss:
    """Returns a loss: `loss(logits [B, C], labels [B, C])` is the sum over classes, averaged over clips."""
    return build_loss({"name": name, **settings})


def list_metrics() -> list[str]:
    """Returns the names of metrics."""
    return METRICS.names()


def create_metric(name: str, **settings: Any) -> Metric:
    """Returns a metric: `update(scores, labels)` adds videos, `merge(other)` another's, `compute()` is the number."""
    return build_metric(name, **settings)


def vocabulary(path: str | Path | None = None) -> Vocabulary:
    """Returns the names of the 3,862 published classes, or those of a CSV file."""
    return Vocabulary.load(path)


def _shape(video: Video, frames: Array) -> list[int]:
    return list(frames.shape if isinstance(video, Mapping) else np.shape(video))


def _to_row(video_id: str, video: Video, spec: FeatureSpec) -> VideoRow:
    if isinstance(video, Mapping):
        if missing := [name for name in spec.sizes if name not in video]:
            found = ", ".join(map(str, video)) or "none"
            raise InputError(f"video {video_id}: the model needs {', '.join(missing)}; found {found}")
        parts = [np.atleast_2d(np.asarray(video[name])) for name in spec.sizes]
        if len({len(part) for part in parts}) > 1:
            raise InputError(f"video {video_id}: its features differ in frames: {[len(part) for part in parts]}")
        frames = np.concatenate(parts, axis=1)
    else:
        frames = np.atleast_2d(np.asarray(video))
    expected = f"[{spec.dim}]" if spec.is_video_level else f"[T, {spec.dim}]"
    if frames.ndim != 2 or frames.shape[1] != spec.dim or (spec.is_video_level and len(frames) != 1):
        raise InputError(f"video {video_id}: expected an array {expected}, found {_shape(video, frames)}")
    if not np.issubdtype(frames.dtype, np.number) or not np.isfinite(frames).all():
        raise InputError(f"video {video_id}: expected finite numbers, found {frames.dtype} with others among them")
    if spec.is_video_level:
        return VideoRow(video_id, frames.astype(np.float32), None)
    if frames.dtype != np.uint8:
        frames = np.clip(np.rint((frames - DEQUANTIZATION_OFFSET) / DEQUANTIZATION_SCALE), 0, 255).astype(np.uint8)
    return VideoRow(video_id, frames[: spec.max_frames], None)

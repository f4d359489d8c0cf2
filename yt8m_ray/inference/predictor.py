"""A checkpoint or a bundle as a function: rows in, the best classes out. No Ray, no HTTP; threads are the caller's."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from yt8m_ray.artifacts.checkpoint import load_model
from yt8m_ray.artifacts.checkpoint_folders import load_config
from yt8m_ray.artifacts.folder_manifest import folder_version, read_manifest
from yt8m_ray.data.format.features import FeatureSpec, LabelPolicy, Normalization, VideoRow
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.data.pipeline.batches import to_batch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.preflight import check_first_videos
from yt8m_ray.data.pipeline.read_options import OnCorruptPolicy, ReadOptions
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.bundle.document import VOCABULARY_FILE, BundleDocument, read_document
from yt8m_ray.inference.bundle.folder import load_bundle
from yt8m_ray.inference.bundle.golden_answers import TOLERANCE, GoldenAnswers
from yt8m_ray.inference.locate import is_bundle, locate_model
from yt8m_ray.models import Model
from yt8m_ray.schema import Batch
from yt8m_ray.topk import TopK, check_scores
from yt8m_ray.topk import top_k as best_classes


@dataclass(frozen=True)
class Predictor:
    """A model with everything that its inputs and outputs need."""

    # In eval mode, on `device`.
    model: Model
    spec: FeatureSpec
    normalize: Normalization
    # None: the published vocabulary, if the number of classes allows.
    vocabulary_path: str | None
    # A short hash of the exact files that were loaded.
    version: str
    device: torch.device
    # Of a bundle alone.
    golden: GoldenAnswers | None = None
    document: BundleDocument | None = None

    @classmethod
    def from_path(cls, path: str | Path, *, device: str = "cpu", ema: bool | None = None) -> Self:
        """Returns the predictor of a bundle or a checkpoint.

        Args:
            path: As `locate_model` takes it.
            ema: Whether to take a checkpoint's moving average of the weights; None takes what was validated.

        Raises:
            ConfigError: `ema` is given for a bundle, which has one set of weights.
            NoSuchFolderError: there is neither a bundle nor a checkpoint; more errors as in `locate_model`.
            ValueError: its files are damaged or of an unknown version, or there is no such average.
        """
        path, place = locate_model(path), torch.device(device)
        if not is_bundle(path):
            model, config = load_model(path, ema=ema)
            data, version = config.data, model_version(path, ema=ema)
            return cls(model.to(place), data.spec, data.normalize, data.vocabulary, version, place)
        if ema is not None:
            raise ConfigError(f"ema: {path} is a bundle, which has the weights that it was made of")
        bundle = load_bundle(path, device=device)
        spec, normalize, names = bundle.document.spec, bundle.document.input.normalize, str(path / VOCABULARY_FILE)
        return cls(bundle.model, spec, normalize, names, bundle.version, place, bundle.golden, bundle.document)

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """Names of the classes; errors as in `load_vocabulary`."""
        # Read on the first use: predictions need no names.
        return load_vocabulary(self.vocabulary_path, self.spec)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Returns the logits of a normalized batch on `device`, float32 [B, C]; NaNScoresError where some are NaN."""
        with torch.inference_mode():
            logits: torch.Tensor = self.model(batch.frames, batch.num_frames)
        check_scores(logits, batch.video_ids)
        return logits.float()

    def predict(self, videos: Sequence[VideoRow] | PackedVideos | Batch, top_k: int = 20) -> TopK:
        """Returns the `top_k` best classes of each video, on the CPU; errors as in `logits`.

        Args:
            videos: Rows or packed videos that fit `spec`, or a normalized batch on `device`.
            top_k: More classes than there are give all.
        """
        if not isinstance(videos, (PackedVideos, Batch)):
            videos = PackedVideos.from_rows(videos, self.spec)
        if isinstance(videos, PackedVideos):
            videos = to_batch(videos, spec=self.spec, normalize=self.normalize, device=self.device, labelled=False)
        best = best_classes(self.logits(videos), top_k)
        return TopK(class_ids=best.class_ids.cpu(), scores=best.scores.cpu())

    def self_check(self, *, tolerance: float = TOLERANCE) -> int:
        """Returns how many golden answers agree; ValueError where a score is off by more than its share `tolerance`."""
        # A checkpoint has none, nor has a bundle of version 1.
        if self.golden is None:
            return 0
        videos = self.golden.videos
        self.golden.compare(self.predict(videos, self.spec.num_classes), tolerance=tolerance)
        return len(videos)


def model_version(folder: Path, *, ema: bool | None = None) -> str:
    """Returns a short hash of a folder's files, with the choice of `ema`."""
    # Without the choice, outputs of a checkpoint's weights and of their average would have one version.
    version = folder_version(folder)
    return version if ema is None else f"{version}-{'ema' if ema else 'raw'}"


def read_spec(folder: Path) -> FeatureSpec:
    """Returns what the model in a folder reads, after comparing its files with the manifest."""
    if is_bundle(folder):
        return read_document(folder).spec
    # A config alone may be what a write that was cut short has left.
    read_manifest(folder, kind="checkpoint")
    return load_config(folder).data.spec


def check_fit(folder: Path, shards: Sequence[str], *, labels: LabelPolicy, on_corrupt: OnCorruptPolicy) -> None:
    """Checks that the first videos of shards fit the model in a folder; errors as in `check_first_videos`."""
    options = ReadOptions(labels=labels, on_corrupt=on_corrupt)
    check_first_videos(shards, read_spec(folder), options, key="shards")


def load_vocabulary(path: str | None, spec: FeatureSpec) -> Vocabulary:
    """Returns the vocabulary of a CSV file of enough classes; None means the published one, if `spec` can mean it."""
    if path is None:
        return Vocabulary.meant_by(spec.sizes, spec.num_classes)
    return Vocabulary.load(path, num_classes=spec.num_classes)

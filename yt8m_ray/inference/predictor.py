"""A checkpoint or a bundle as a function: rows in, the best classes out. No Ray, no HTTP; threads are the caller's."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from yt8m_ray.artifacts.archive import open_folder
from yt8m_ray.artifacts.checkpoint import load_config, load_model
from yt8m_ray.artifacts.folder_manifest import CONFIG_FILE, NoSuchFolderError, folder_version, read_manifest
from yt8m_ray.data.format.features import FeatureSpec, LabelPolicy, Normalization, VideoRow
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.data.pipeline.batches import to_batch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.preflight import check_first_videos
from yt8m_ray.data.pipeline.shard_reader import OnCorruptPolicy, ReadOptions
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.bundle.document import DOCUMENT_FILE, VOCABULARY_FILE, BundleDocument, read_document
from yt8m_ray.inference.bundle.folder import load_bundle
from yt8m_ray.inference.bundle.golden_answers import TOLERANCE, GoldenAnswers
from yt8m_ray.models import Model
from yt8m_ray.schema import Batch
from yt8m_ray.topk import TopK, check_scores
from yt8m_ray.topk import top_k as best_classes


@dataclass(frozen=True)
class Predictor:
    """A model with everything that its inputs and outputs need.

    Attributes:
        model: In eval mode, on `device`.
        spec: What a row must hold.
        vocabulary_path: None means the published vocabulary where the number of classes allows.
        version: A short hash of the exact files that were loaded.
        golden: What `self_check` compares with; None for a checkpoint and for a bundle of version 1.
        document: Of a bundle; None for a checkpoint.
    """

    model: Model
    spec: FeatureSpec
    normalize: Normalization
    vocabulary_path: str | None
    version: str
    device: torch.device
    golden: GoldenAnswers | None = None
    document: BundleDocument | None = None

    @classmethod
    def from_path(cls, path: str | Path, *, device: str = "cpu", ema: bool | None = None) -> Self:
        """Returns the predictor of a bundle or a checkpoint.

        Args:
            path: The folder, or a bundle's tar; either may be in an object store.
            ema: Whether to take a checkpoint's moving average of the weights; None takes what its run was validated
                with.

        Raises:
            ConfigError: `ema` is given for a bundle, which has one set of weights.
            NoSuchFolderError: there is neither a bundle nor a checkpoint.
            ValueError: its files are damaged or of an unknown version, or there is no such average.
        """
        path = locate_model(path)
        golden: GoldenAnswers | None = None
        document: BundleDocument | None = None
        if is_bundle(path):
            if ema is not None:
                raise ConfigError(f"ema: {path} is a bundle, which has the weights that it was made of")
            bundle = load_bundle(path, device=device)
            model, golden, document = bundle.model, bundle.golden, bundle.document
            spec, normalize = document.spec, document.input.normalize
            vocabulary_path: str | None = str(path / VOCABULARY_FILE)
        else:
            model, config = load_model(path, ema=ema)
            spec, normalize, vocabulary_path = config.data.spec, config.data.normalize, config.data.vocabulary
        version = model_version(path, ema=ema)
        model = model.to(device).eval()
        return cls(model, spec, normalize, vocabulary_path, version, torch.device(device), golden, document)

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """Names of the classes, read on the first use: predictions do without.

        Raises:
            ValueError, OSError: the table cannot be read, or has too few classes.
        """
        return load_vocabulary(self.vocabulary_path, self.spec)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Returns the logits of a normalized batch on `device`, float32 [B, C].

        Raises:
            NaNScoresError: scores of a video are not numbers.
        """
        with torch.inference_mode():
            logits: torch.Tensor = self.model(batch.frames, batch.num_frames)
        check_scores(logits, batch.video_ids)
        return logits.float()

    def predict(self, videos: Sequence[VideoRow] | PackedVideos | Batch, top_k: int = 20) -> TopK:
        """Returns the `top_k` best classes of each video, on the CPU.

        Args:
            videos: Rows or packed videos that fit `spec`, or a normalized batch on `device`.
            top_k: More classes than there are give all.

        Raises:
            NaNScoresError: scores of a video are not numbers.
        """
        if not isinstance(videos, (PackedVideos, Batch)):
            videos = PackedVideos.from_rows(videos, self.spec)
        if isinstance(videos, PackedVideos):
            videos = to_batch(videos, spec=self.spec, normalize=self.normalize, device=self.device, labelled=False)
        best = best_classes(self.logits(videos), top_k)
        return TopK(class_ids=best.class_ids.cpu(), scores=best.scores.cpu())

    def self_check(self, *, tolerance: float = TOLERANCE) -> int:
        """Returns of how many videos the answers are those that the bundle gave when it was written; 0 without such.

        Raises:
            ValueError: a score differs by more than its share `tolerance`; names the video, the class and both scores.
        """
        if self.golden is None:
            return 0
        videos = self.golden.videos
        self.golden.compare(self.predict(videos, self.spec.num_classes), tolerance=tolerance)
        return len(videos)


def locate_model(path: str | Path) -> Path:
    """Returns the absolute path of a checkpoint's or bundle's folder, or of its copy from an object store or a tar.

    Raises:
        NoSuchFolderError: there is neither a bundle nor a checkpoint.
        ValueError, OSError: the copy cannot be made.
    """
    folder = open_folder(path)
    if not is_bundle(folder) and not (folder / CONFIG_FILE).is_file():
        raise NoSuchFolderError(
            f"{folder}: expected a checkpoint's folder (has {CONFIG_FILE}) or a bundle's ({DOCUMENT_FILE})"
        )
    return folder


def is_bundle(folder: Path) -> bool:
    """Returns whether a folder from `locate_model` is a bundle's."""
    return (folder / DOCUMENT_FILE).is_file()


def model_version(folder: Path, *, ema: bool | None = None) -> str:
    """Returns a short hash of a folder's files, which tells a checkpoint's weights from their average too."""
    version = folder_version(folder)
    return version if ema is None else f"{version}-{'ema' if ema else 'raw'}"


def read_spec(folder: Path) -> FeatureSpec:
    """Returns what the model in a folder reads, after its files were compared with the manifest."""
    if is_bundle(folder):
        return read_document(folder).spec
    read_manifest(folder, kind="checkpoint")
    return load_config(folder).data.spec


def check_fit(folder: Path, shards: Sequence[str], *, labels: LabelPolicy, on_corrupt: OnCorruptPolicy) -> None:
    """Checks in a moment, before a cluster is started, that the first videos of shards fit the model in a folder.

    Raises:
        ValueError, OSError: as `check_first_videos`.
    """
    options = ReadOptions(labels=labels, on_corrupt=on_corrupt)
    check_first_videos(shards, read_spec(folder), options, key="shards")


def load_vocabulary(path: str | None, spec: FeatureSpec) -> Vocabulary:
    """Returns the vocabulary of a CSV file, or the published one where what is read can mean it.

    Raises:
        ValueError, OSError: the file cannot be read, or has fewer classes.
    """
    if path is None:
        return Vocabulary.meant_by(spec.sizes, spec.num_classes)
    return Vocabulary.load(path, num_classes=spec.num_classes)

"""A checkpoint or a bundle as a function: rows in, the best classes out. No Ray, no HTTP; threads are the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from yt8m_ray.checkpoint import CONFIG_FILE, NoSuchFolderError, load_model
from yt8m_ray.data.batch import Normalization, PackedVideos, to_batch
from yt8m_ray.data.features import FeatureSpec, VideoRow
from yt8m_ray.data.vocabulary import Vocabulary
from yt8m_ray.inference.bundle import DOCUMENT_FILE, folder_version, load_bundle
from yt8m_ray.models import Model
from yt8m_ray.schema import Batch
from yt8m_ray.topk import TopK, top_k


@dataclass(frozen=True)
class Predictor:
    """A model with everything that its inputs and outputs need.

    Attributes:
        model: In eval mode, on `device`.
        spec: What a row must hold.
        normalize: How batches are normalized.
        vocabulary: Names of the classes.
        version: A short hash of the exact files that were loaded.
        device: Where batches go.
    """

    model: Model
    spec: FeatureSpec
    normalize: Normalization
    vocabulary: Vocabulary
    version: str
    device: torch.device

    @classmethod
    def from_path(cls, path: str | Path, *, device: str = "cpu") -> Self:
        """Returns the predictor of a bundle's or checkpoint's folder.

        Raises:
            NoSuchFolderError: there is neither a bundle nor a checkpoint.
            ValueError: its files are damaged or of an unknown version.
        """
        path = Path(path)
        if (path / DOCUMENT_FILE).is_file():
            bundle = load_bundle(path)
            model, spec, vocabulary = bundle.model, bundle.document.spec, bundle.vocabulary
            normalize: Normalization = bundle.document.normalize
        elif (path / CONFIG_FILE).is_file():
            model, config = load_model(path)
            spec, normalize = config.data.spec, config.data.normalize
            vocabulary = load_vocabulary(config.data.vocabulary, spec.num_classes)
        else:
            raise NoSuchFolderError(
                f"{path.absolute()}: expected a checkpoint's folder (has {CONFIG_FILE}) or a bundle's ({DOCUMENT_FILE})"
            )
        return cls(model.to(device).eval(), spec, normalize, vocabulary, folder_version(path), torch.device(device))

    def predict(self, videos: Sequence[VideoRow] | Batch, top_k: int = 20) -> TopK:
        """Returns the `top_k` best classes of each video, on the CPU.

        Args:
            videos: Rows that fit `spec`, or a batch on `device` that is normalized already.
            top_k: Classes a video; more than there are gives all.
        """
        if isinstance(videos, Batch):
            return self._best(videos, top_k)
        return self.predict_packed(PackedVideos.from_rows(videos, self.spec), top_k)

    def predict_packed(self, videos: PackedVideos, top_k: int = 20) -> TopK:
        """Returns the same as `predict` for packed videos."""
        batch = to_batch(
            videos, num_classes=self.spec.num_classes, normalize=self.normalize, device=self.device, labelled=False
        )
        return self._best(batch, top_k)

    def _best(self, batch: Batch, k: int) -> TopK:
        with torch.inference_mode():
            best = top_k(self.model(batch.frames, batch.num_frames), k)
        return TopK(class_ids=best.class_ids.cpu(), scores=best.scores.cpu())


def load_vocabulary(path: str | None, num_classes: int) -> Vocabulary:
    """Returns the vocabulary of a CSV file, or the published one where the number of classes allows."""
    return Vocabulary.for_num_classes(num_classes) if path is None else Vocabulary.load(path)

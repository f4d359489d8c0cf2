"""Golden answers: a few made-up videos and what a bundle answered for them when it was written.

A bundle that was loaded elsewhere, by another version or on another device, is asked the same and compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import save_file

from yt8m_ray.artifacts.checkpoint import read_tensors
from yt8m_ray.artifacts.folder_manifest import CheckpointError
from yt8m_ray.data.format.features import FeatureSpec, Normalization, VideoRow
from yt8m_ray.data.pipeline.batches import to_batch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.models import Model
from yt8m_ray.topk import TopK, top_k

NUM_INPUTS = 3
TOP_K = 20
TOLERANCE = 0.02
"""Of a score, relative to it: what its logit may differ by. Other devices differ by 1e-5, other weights by more."""

_LEAST_DIFFERENCE = 1e-6  # of two scores: the smallest ones are not worth a comparison of their own
_DTYPES = {"num_frames": torch.int64, "class_ids": torch.int64, "scores": torch.float32}
_NUM_FRAMES = (1, 12, 60)
_SEED = 8
_BYTE_MEAN, _BYTE_STD = 128, 48  # published bytes lie about the middle, few of them at the ends
_MEAN_STD = 0.3


@dataclass(frozen=True)
class GoldenAnswers:
    """N videos and the K best classes of each.

    Attributes:
        videos: Unlabelled.
        best: What was answered.
    """

    videos: PackedVideos
    best: TopK

    def save(self, path: Path) -> None:
        """Writes the tensors frames, num_frames, class_ids and scores."""
        tensors = {
            "frames": torch.from_numpy(self.videos.frames),
            "num_frames": torch.from_numpy(self.videos.num_frames.astype(np.int64)),
            "class_ids": self.best.class_ids,
            "scores": self.best.scores,
        }
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)

    @classmethod
    def load(cls, path: Path, spec: FeatureSpec) -> Self:
        """Returns the answers in a file.

        Raises:
            CheckpointError: it holds something else.
        """
        tensors = read_tensors(path)
        try:
            frames, counts = tensors["frames"].numpy(), tensors["num_frames"].tolist()
            best = TopK(class_ids=tensors["class_ids"].clone(), scores=tensors["scores"].clone())
        except KeyError as error:
            raise CheckpointError(f"{path}: expected the tensor {error}, found {sorted(tensors)}") from None
        for name, dtype in _DTYPES.items():
            if tensors[name].dtype != dtype:
                raise CheckpointError(f"{path}: {name}: expected {dtype}, found {tensors[name].dtype}")
        if frames.ndim != 2 or tensors["num_frames"].ndim != 1 or best.scores.ndim != 2:
            raise CheckpointError(f"{path}: expected frames and scores with two axes, and one of num_frames")
        if len(frames) != sum(counts) or frames.shape[1:] != (spec.dim,) or frames.dtype != spec.dtype:
            raise CheckpointError(
                f"{path}: expected {spec.dtype} frames of {spec.dim} values, {sum(counts)} in all, found "
                f"{frames.dtype} {list(frames.shape)}"
            )
        if any(not 1 <= count <= spec.max_frames for count in counts):
            raise CheckpointError(f"{path}: expected 1 to {spec.max_frames} frames a video, found {counts}")
        if not ((best.class_ids >= 0) & (best.class_ids < spec.num_classes)).all():
            raise CheckpointError(f"{path}: expected class ids below {spec.num_classes}")
        if best.class_ids.shape != best.scores.shape or len(best.scores) != len(counts):
            raise CheckpointError(f"{path}: expected class ids and scores of {len(counts)} videos alike")
        ends = np.cumsum(counts)[:-1]
        return cls(_pack([part.copy() for part in np.split(frames, ends)], spec), best)

    def compare(self, found: TopK, *, tolerance: float) -> None:
        """Checks the answers of today.

        Args:
            found: All classes of each video.
            tolerance: Of each score, relative to what it was.

        Raises:
            ValueError: a class has another score, or one is among the best that was not.
        """
        expected = self.best
        by_class = torch.zeros_like(found.scores).scatter(1, found.class_ids, found.scores)
        k = expected.scores.shape[1]
        of_same_class, of_same_rank = by_class.gather(1, expected.class_ids), found.scores[:, :k]
        for scores in (of_same_class, of_same_rank):
            wrong = ~((scores - expected.scores).abs() <= tolerance * expected.scores + _LEAST_DIFFERENCE)  # NaN is
            for video, rank in wrong.nonzero().tolist()[:1]:
                raise ValueError(
                    f"self check: golden video {video}, class {int(expected.class_ids[video, rank])} at rank "
                    f"{rank + 1}: score {float(expected.scores[video, rank]):.6g} expected within {tolerance:.0%}, "
                    f"{float(scores[video, rank]):.6g} found"
                )


def make_inputs(spec: FeatureSpec, num_videos: int = NUM_INPUTS) -> PackedVideos:
    """Returns made-up videos: clips of several lengths, or means at video level."""
    generator = np.random.default_rng(_SEED)
    frames = []
    for index in range(num_videos):
        if spec.is_video_level:
            frames.append(generator.normal(0, _MEAN_STD, (1, spec.dim)).astype(np.float32))
        else:
            num_frames = min(_NUM_FRAMES[index % len(_NUM_FRAMES)], spec.max_frames)
            values = generator.normal(_BYTE_MEAN, _BYTE_STD, (num_frames, spec.dim))
            frames.append(values.round().clip(0, 255).astype(np.uint8))
    return _pack(frames, spec)


def answer(model: Model, videos: PackedVideos, spec: FeatureSpec, normalize: Normalization) -> GoldenAnswers:
    """Returns what a model on the CPU answers."""
    batch = to_batch(videos, spec=spec, normalize=normalize, device=torch.device("cpu"), labelled=False)
    with torch.inference_mode():
        best = top_k(model(batch.frames, batch.num_frames), TOP_K)
    return GoldenAnswers(videos, best)


def _pack(frames: list[np.ndarray], spec: FeatureSpec) -> PackedVideos:
    rows = [VideoRow(f"golden-{index}", part, np.empty(0, np.int32)) for index, part in enumerate(frames)]
    return PackedVideos.from_rows(rows, spec)

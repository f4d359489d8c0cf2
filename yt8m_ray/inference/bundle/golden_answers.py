"""Golden answers: made-up videos and what a bundle answered when it was written, for it to check itself elsewhere."""

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
# Relative to a score, and so what its logit may differ by: other devices differ by 1e-5, other weights by more.
TOLERANCE = 0.02

# Of two scores: the smallest are not worth a comparison of their own.
_LEAST_DIFFERENCE = 1e-6
_DTYPES = {"num_frames": torch.int64, "class_ids": torch.int64, "scores": torch.float32}
_NUM_FRAMES = (1, 12, 60)
_SEED = 8
# Published bytes are about the middle, few of them at the ends.
_BYTE_MEAN, _BYTE_STD = 128, 48
_MEAN_STD = 0.3


@dataclass(frozen=True)
class GoldenAnswers:
    """N unlabelled videos, and the K best classes of each as they were answered."""

    videos: PackedVideos
    best: TopK

    def save(self, path: Path) -> None:
        """Writes the tensors frames, num_frames, class_ids and scores."""
        tensors = {name: torch.from_numpy(getattr(self.videos, name)) for name in ("frames", "num_frames")}
        tensors |= {"class_ids": self.best.class_ids, "scores": self.best.scores}
        save_file({name: tensor.to(_DTYPES.get(name)).contiguous() for name, tensor in tensors.items()}, path)

    @classmethod
    def load(cls, path: Path, spec: FeatureSpec) -> Self:
        """Returns the answers in a file; CheckpointError where it holds something else."""
        tensors = read_tensors(path)
        try:
            frames, counts = tensors["frames"].numpy(), tensors["num_frames"].tolist()
            best = TopK(class_ids=tensors["class_ids"].clone(), scores=tensors["scores"].clone())
        except KeyError as error:
            raise CheckpointError(f"{path}: expected the tensor {error}, found {sorted(tensors)}") from None

        def check(is_right: bool, message: str) -> None:
            if not is_right:
                raise CheckpointError(f"{path}: {message}")

        for name, dtype in _DTYPES.items():
            check(tensors[name].dtype == dtype, f"{name}: expected {dtype}, found {tensors[name].dtype}")
        axes = (frames.ndim, tensors["num_frames"].ndim, best.scores.ndim)
        check(axes == (2, 1, 2), "expected frames and scores with two axes, and one of num_frames")
        check(
            len(frames) == sum(counts) and frames.shape[1:] == (spec.dim,) and frames.dtype == spec.dtype,
            f"expected {spec.dtype} frames of {spec.dim} values, {sum(counts)} in all, found {frames.dtype} "
            f"{list(frames.shape)}",
        )
        is_in_range = all(1 <= count <= spec.max_frames for count in counts)
        check(is_in_range, f"expected 1 to {spec.max_frames} frames a video, found {counts}")
        are_classes = bool(((best.class_ids >= 0) & (best.class_ids < spec.num_classes)).all())
        check(are_classes, f"expected class ids below {spec.num_classes}")
        are_alike = best.class_ids.shape == best.scores.shape and len(best.scores) == len(counts)
        check(are_alike, f"expected class ids and scores of {len(counts)} videos alike")
        ends = np.cumsum(counts)[:-1]
        return cls(_pack([part.copy() for part in np.split(frames, ends)], spec), best)

    def compare(self, found: TopK, *, tolerance: float) -> None:
        """Checks the present answers, of all classes; ValueError where a score, or one among the best, differs."""
        expected = self.best
        # A score is compared by its class and by its rank: near ties may trade places, but not their values.
        by_class = torch.zeros_like(found.scores).scatter(1, found.class_ids, found.scores)
        k = expected.scores.shape[1]
        of_same_class, of_same_rank = by_class.gather(1, expected.class_ids), found.scores[:, :k]
        for scores in (of_same_class, of_same_rank):
            # Not `>`: NaN compares false, and is wrong.
            wrong = ~((scores - expected.scores).abs() <= tolerance * expected.scores + _LEAST_DIFFERENCE)
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

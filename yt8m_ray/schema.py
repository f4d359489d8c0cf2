"""Facts about the YouTube-8M data set, and the batch that models consume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes a second to import, and read tasks never need it
    import torch

# Keys of the video id: `id` since the 2018 release, `video_id` in the 2017 release.
ID_KEYS = ("id", "video_id")
LABELS_KEY = "labels"
# Key of the classes whose segments were rated in the 2019 release; says nothing of the video as a whole.
SEGMENT_LABELS_KEY = "segment_labels"

# Longest clip in the published shards: one frame a second, at most five minutes.
MAX_FRAMES = 300
# Longest clip that is read: a day. A reader has room for so many frames ready.
MOST_FRAMES = 86_400

# Frame-level features of a SequenceExample and their uint8 values a frame.
FRAME_FEATURES = {"rgb": 1024, "audio": 128}
# Video-level features of an Example and their float32 values: the mean over the unquantized frames.
VIDEO_FEATURES = {"mean_rgb": 1024, "mean_audio": 128}
MEAN_PREFIX = "mean_"

# Vocabulary sizes of the 2017 release and of the 2018 and 2019 releases.
NUM_CLASSES_2017 = 4716
NUM_CLASSES_2018 = 3862

# Interval that the 256 values of a stored byte divide (feature extractor of the 2016 release).
QUANTIZATION_RANGE = (-2.0, 2.0)
# A stored byte b means `b * DEQUANTIZATION_SCALE + DEQUANTIZATION_OFFSET`, as the published readers define it.
DEQUANTIZATION_SCALE = 4.0 / 255.0
DEQUANTIZATION_OFFSET = 4.0 / 512.0 - 2.0


@dataclass(frozen=True)
class Batch:
    """B videos on their device, ready for a model."""

    # float32 [B, T, D], dequantized and normalized; rows t >= num_frames are exactly 0.
    frames: torch.Tensor
    # int64 [B], each in 0..T.
    num_frames: torch.Tensor
    # float32 multi-hot [B, C], or None where nothing is labelled.
    labels: torch.Tensor | None
    # In the order of the rows.
    video_ids: tuple[str, ...]
    # A teacher's scores, float32 [B, C] in 0..1, where there is a teacher's data set.
    soft_labels: torch.Tensor | None = None
    # Of each video in the loss, float32 [B], where they are not all 1.
    weights: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.video_ids)

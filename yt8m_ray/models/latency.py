"""The latency of a model on this machine."""

from __future__ import annotations

import statistics
import time

import torch

from yt8m_ray.models.base import Model

_WARM_UP_CLIPS = 3
_TIMED_CLIPS = 15


def clip_latency_ms(model: Model, *, num_frames: int) -> float:
    """Returns the median milliseconds of a clip of `num_frames` real frames on one CPU thread, in eval mode."""
    frames = torch.randn(1, num_frames, model.frame_dim)
    count = torch.tensor([num_frames])
    num_threads, was_training = torch.get_num_threads(), model.training
    torch.set_num_threads(1)
    model.eval()
    try:
        with torch.inference_mode():
            times = []
            for _ in range(_WARM_UP_CLIPS + _TIMED_CLIPS):
                started = time.perf_counter()
                model(frames, count)
                times.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(num_threads)
        model.train(was_training)
    return 1000 * statistics.median(times[_WARM_UP_CLIPS:])

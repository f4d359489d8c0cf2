"""The replica: one process with one model, behind a queue that batches videos of all its requests."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import ray
import torch
from fastapi import FastAPI
from ray import serve

from serve.api import Best, build_api
from serve.schemas import Limits
from yt8m_ray.data.features import VideoRow
from yt8m_ray.inference.predictor import Predictor


class PredictionService:
    """Answers the HTTP application of `serve.api` with one model, in the process that takes requests: no second hop.

    Args:
        model: A bundle, folder or tar, or a checkpoint; a path or URI.
        num_threads: Threads of the tensor operations.
    """

    def __init__(self, model: str, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self._limits = Limits()
        # By what Ray assigned: it hides no GPU from a replica that asked for none.
        self._predictor = Predictor.from_path(model, device="cuda" if ray.get_gpu_ids() else "cpu")
        _ = self._predictor.vocabulary  # a table that cannot be read stops the start, not a request
        # The first call pays for allocations and kernels: before Serve calls the replica ready, not in a request.
        spec = self._predictor.spec
        self._predictor.predict([VideoRow("warm-up", np.zeros((1, spec.dim), spec.dtype), np.empty(0, np.int32))])

    @property
    def predictor(self) -> Predictor:
        """The model and what belongs to it."""
        return self._predictor

    @property
    def limits(self) -> Limits:
        """The limits that are in force now."""
        return self._limits

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Takes over `user_config` of serve/config.yaml; Ray Serve calls it at the start and on every change."""
        self._limits = Limits.model_validate(user_config)
        batched: Any = PredictionService._predict_batched
        batched.set_max_batch_size(self._limits.max_batch_size)
        batched.set_batch_wait_timeout_s(self._limits.batch_wait_timeout_s)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self)

    async def best_classes(self, row: VideoRow, top_k: int) -> Best:
        """Returns the best classes of one video, predicted together with whatever else is waiting."""
        best: Best = await self._predict_batched((row, top_k))
        return best

    @serve.batch
    async def _predict_batched(self, asked: list[tuple[VideoRow, int]]) -> list[Best]:
        return await asyncio.to_thread(self._predict, asked)

    def _predict(self, asked: list[tuple[VideoRow, int]]) -> list[Best]:
        # The best k classes are the first k of any longer list, so that one call serves every request's own top_k.
        best = self._predictor.predict([row for row, _ in asked], max(top_k for _, top_k in asked))
        class_ids, scores = best.class_ids.tolist(), best.scores.tolist()
        return [(class_ids[index][:top_k], scores[index][:top_k]) for index, (_, top_k) in enumerate(asked)]

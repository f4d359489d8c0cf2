"""The models that a replica has loaded, and the choice between them."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from serve.errors import RequestError
from serve.model.batching import Best
from serve.model.label_json import LabelTexts
from yt8m_ray.data.format.features import VideoRow
from yt8m_ray.data.pipeline.single_record import OrdinaryRecords, encode_row
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.topk import NaNScoresError


@dataclass(frozen=True, eq=False)
class HostedModel:
    """A loaded model; `uri` is the place that it was loaded from."""

    uri: str
    predictor: Predictor

    @classmethod
    def load(cls, uri: str, *, device: str = "cpu") -> Self:
        """Returns a model after checks of its files and golden answers, and a first call.

        The place is any name that `locate_model` takes.
        ValueError, OSError or RuntimeError if it is missing, damaged, or fails a golden answer.
        """
        predictor = Predictor.from_path(uri, device=device)
        predictor.self_check()
        # The first call pays for allocations and kernels: now, not in a request.
        spec = predictor.spec
        warm_up = VideoRow("warm-up", np.zeros((spec.max_frames, spec.dim), spec.dtype), np.empty(0, np.int32))
        predictor.predict([warm_up])
        model = cls(uri, predictor)
        # The first call on a machine compiles the reader, in seconds.
        model.records.read(encode_row(warm_up, spec))
        # Fails now, and not in a request, if the table of names cannot be read.
        _ = model.label_texts
        return model

    @functools.cached_property
    def label_texts(self) -> LabelTexts:
        """The ids and names of its classes; ValueError or OSError if their table cannot be read or is too short."""
        return LabelTexts(self.predictor.vocabulary)

    @functools.cached_property
    def records(self) -> OrdinaryRecords:
        return OrdinaryRecords(self.predictor.spec)

    @property
    def version(self) -> str:
        return self.predictor.version

    def best_classes(self, rows: Sequence[VideoRow], top_k: int) -> list[Best | RequestError]:
        """Returns class ids and scores of each row, best first; an error for a row whose scores are NaN."""
        try:
            best = self.predictor.predict(rows, top_k)
        except NaNScoresError as error:
            # The other rows may belong to other requests.
            others = [row for index, row in enumerate(rows) if index not in error.rows]
            answers = iter(self.best_classes(others, top_k) if others else ())
            refusal = "the model's scores of this video are NaN: its features are finite, and too large"
            # An error for each row: each is raised in a task of its own.
            return [RequestError(422, refusal) if index in error.rows else next(answers) for index in range(len(rows))]
        return list(zip(best.class_ids.tolist(), best.scores.tolist(), strict=True))


class ModelHost:
    """The current model, and a canary that answers `canary_share` (0 to 1) of the requests instead."""

    def __init__(self, current: HostedModel) -> None:
        self.current = current
        self.canary: HostedModel | None = None
        self.canary_share = 0.0
        self._random = random.Random()

    def choose(self, version: str | None) -> HostedModel:
        """Returns the model of a version, RequestError 404 if it is not loaded; None chooses by the canary's share."""
        if version is not None:
            for model in self.models:
                if model.version == version:
                    return model
            valid = ", ".join(model.version for model in self.models)
            raise RequestError(404, f"version: {version[:60]!r} is not served; valid: {valid}")
        if self.canary is not None and self._random.random() < self.canary_share:
            return self.canary
        return self.current

    @property
    def models(self) -> list[HostedModel]:
        return [self.current] if self.canary is None else [self.current, self.canary]

    @property
    def versions(self) -> list[str]:
        # Each once: a canary can have the files of the current model.
        return list(dict.fromkeys(model.version for model in self.models))

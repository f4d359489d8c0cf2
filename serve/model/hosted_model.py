"""The models that a replica has loaded, and which of them a request is answered by."""

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
from yt8m_ray.tracking.models import fetch_model


@dataclass(frozen=True, eq=False)
class HostedModel:
    """A model that has answered.

    Attributes:
        uri: Where it came from, as an operator named it.
        predictor: Itself.
    """

    uri: str
    predictor: Predictor

    @classmethod
    def load(cls, uri: str, *, device: str = "cpu") -> Self:
        """Returns a model after its files, its golden answers and a first call were checked.

        Args:
            uri: A bundle (folder or tar) or a checkpoint, here or in an object store, or `models:/NAME@ALIAS`.
            device: Where it computes.

        Raises:
            ValueError, OSError, RuntimeError: it is not there, is damaged, or answers otherwise than it did when it was
                written.
        """
        predictor = Predictor.from_path(fetch_model(uri), device=device)
        predictor.self_check()
        # The first call pays for allocations and kernels: now, not in a request.
        spec = predictor.spec
        warm_up = VideoRow("warm-up", np.zeros((spec.max_frames, spec.dim), spec.dtype), np.empty(0, np.int32))
        predictor.predict([warm_up])
        model = cls(uri, predictor)
        model.records.read(encode_row(warm_up, spec))  # on a machine that has never done it, it is compiled: seconds
        _ = model.label_texts  # a table of names that cannot be read is found now, not in a request
        return model

    @functools.cached_property
    def label_texts(self) -> LabelTexts:
        """What answers say of its classes.

        Raises:
            ValueError, OSError: the table of names cannot be read, or has too few classes.
        """
        return LabelTexts(self.predictor.vocabulary)

    @functools.cached_property
    def records(self) -> OrdinaryRecords:
        """Reads what it takes."""
        return OrdinaryRecords(self.predictor.spec)

    @property
    def version(self) -> str:
        """A short hash of the exact files."""
        return self.predictor.version

    def best_classes(self, rows: Sequence[VideoRow], top_k: int) -> list[Best | RequestError]:
        """Returns class ids and scores of each row, best first; an error for a row whose scores are NaN."""
        try:
            best = self.predictor.predict(rows, top_k)
        except NaNScoresError as error:
            # The other rows are of other requests.
            others = [row for index, row in enumerate(rows) if index not in error.rows]
            answers = iter(self.best_classes(others, top_k) if others else ())
            return [_nan_scores() if index in error.rows else next(answers) for index in range(len(rows))]
        return list(zip(best.class_ids.tolist(), best.scores.tolist(), strict=True))


def _nan_scores() -> RequestError:
    return RequestError(422, "the model's scores of this video are NaN: its features are finite, and too large")


class ModelHost:
    """A current model, and maybe a canary with its share of the requests.

    Attributes:
        current: What answers.
        canary: What answers a share of the requests instead.
        canary_share: That share, 0 to 1.
    """

    def __init__(self, current: HostedModel) -> None:
        self.current = current
        self.canary: HostedModel | None = None
        self.canary_share = 0.0
        self._random = random.Random()

    def choose(self, version: str | None) -> HostedModel:
        """Returns the model for a request.

        Args:
            version: What the request names; None leaves the choice to chance and the share.

        Raises:
            RequestError: there is no such version.
        """
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
        """All that a request can name."""
        return [self.current] if self.canary is None else [self.current, self.canary]

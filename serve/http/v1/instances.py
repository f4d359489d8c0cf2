"""The V1 protocol of KServe and TensorFlow Serving, without HTTP: `instances` -> rows, answers -> `predictions`.

https://www.tensorflow.org/tfx/serving/api_rest in its row format.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pydantic
from pydantic import Field

from serve.errors import RequestError
from serve.http.video_input import PredictionInput, checked_json, decode_videos, parameter_top_k, validate_json
from serve.model.batching import Answer
from serve.settings import Limits
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.inference.mlflow_model.video_table import ANSWER_COLUMNS

INSTANCES = "instances"
_BASE64 = "b64"
_SIGNATURES = ("", "serving_default")


class InstancesRequest(pydantic.BaseModel):
    """Videos in rows; keys of other servers are ignored."""

    model_config = pydantic.ConfigDict(strict=True)

    # `request_type` adds the largest number; the instances are checked as videos of /v1/predict.
    instances: list[Any] = Field(
        min_length=1,
        description='A video each, as in /v1/predict; {"b64": "..."} stands for bytes, and where the model has one '
        "feature alone, its values may stand for the video",
    )
    signature_name: str | None = Field(default=None, description="serving_default")
    parameters: dict[str, Any] | None = Field(default=None, description="top_k")


@functools.lru_cache(maxsize=16)
def request_type(max_videos: int) -> type[InstancesRequest]:
    """Returns the type of a request with at most `max_videos` instances."""
    few: Any = (Annotated[list[Any], Field(max_length=max_videos)], InstancesRequest.model_fields["instances"])
    return pydantic.create_model(
        "InstancesRequest", __base__=InstancesRequest, __doc__=InstancesRequest.__doc__, instances=few
    )


class InstancePrediction(pydantic.BaseModel):
    """The best classes of a video, best first."""

    video_id: str
    class_ids: list[int]
    names: list[str | None]
    scores: list[float]


class InstancesResponse(pydantic.BaseModel):
    predictions: list[InstancePrediction] = Field(description="One for each instance, in their order")


def decode_instances(body: bytes, top_k: int | None, spec: FeatureSpec, limits: Limits) -> PredictionInput:
    """Returns the input of a request, whose own `parameters.top_k` takes precedence."""
    request = validate_json(request_type(limits.max_videos), checked_json(body, spec, limits))
    if request.signature_name not in (None, *_SIGNATURES):
        raise RequestError(422, f"signature_name: expected serving_default, found {request.signature_name[:60]!r}")
    asked = parameter_top_k(request.parameters or {})
    videos = [_video(instance, spec) for instance in request.instances]
    return decode_videos(videos, INSTANCES, top_k if asked is None else asked, spec, limits)


def predictions(video_ids: Sequence[str], answers: Sequence[Answer], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    found = []
    for video_id, answer in zip(video_ids, answers, strict=True):
        names = [vocabulary.name(class_id) for class_id in answer.class_ids]
        found.append(dict(zip(ANSWER_COLUMNS, (video_id, answer.class_ids, names, answer.scores), strict=True)))
    return found


def _video(instance: Any, spec: FeatureSpec) -> Any:
    """Returns an instance as a video of /v1/predict, valid or not."""
    names = list(spec.sizes)
    if len(names) == 1 and (not isinstance(instance, dict) or instance.keys() == {_BASE64}):
        return {names[0]: _value(instance)}
    if not isinstance(instance, dict):
        return instance
    return {name: _value(value) for name, value in instance.items()}


def _value(value: Any) -> Any:
    is_bytes = isinstance(value, Mapping) and value.keys() == {_BASE64}
    return value[_BASE64] if is_bytes else value

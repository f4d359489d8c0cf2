"""Examples in the OpenAPI document: bodies with the current model's features, answers and errors."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from serve.errors import CODES
from serve.model.batching import Answer
from serve.model.label_json import LabelTexts
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.format.video_input import missing_feature
from yt8m_ray.inference.predictor import Predictor

_REQUEST_ID = "5f0c9f5e-5a0b-4c55-9d3c-0c2f3a5f2f10"
# The byte that stands for a value of about zero.
_MIDDLE = 128

_CLASS_IDS, _SCORES = (3, 9), (0.9125, 0.4375)


def request_examples(spec: FeatureSpec) -> dict[str, Any]:
    """Returns bodies of POST /v1/predict, each with a summary."""
    values = _values(spec)
    if spec.is_video_level:
        body = {"videos": [{"video_id": "abcd", **values}], "top_k": 1}
        return {"means": {"summary": "The means of a video", "value": body}}
    one = {name: base64.b64encode(bytes([_MIDDLE]) * size).decode() for name, size in spec.sizes.items()}
    nested = {name: [frame] * min(2, spec.max_frames) for name, frame in values.items()}
    return {
        # One frame is the shortest base64 that a model takes, so "Try it out" works.
        "one frame": {
            "summary": "A video of one frame, as base64",
            "value": {"videos": [{"video_id": "abcd", **one}], "top_k": 1},
        },
        "two videos": {
            "summary": "Two videos: all bytes in one list, or a list a frame",
            "value": {"videos": [{"video_id": "flat", **values}, {"video_id": "nested", **nested}]},
        },
    }


def answer_examples(predictor: Predictor) -> dict[str, Any]:
    """Returns answers of POST /v1/predict, each with a summary."""
    class_ids = [class_id for class_id in _CLASS_IDS if class_id < predictor.spec.num_classes] or [0]
    best = Answer(class_ids, list(_SCORES[: len(class_ids)]), 0.0, 0.0)
    labels = LabelTexts(predictor.vocabulary).labels(best, num_labels=len(class_ids), names=True)
    prediction = {"video_id": "abcd", "labels": json.loads(labels)}
    answer = {"model_name": "yt8m", "model_version": predictor.version, "request_id": _REQUEST_ID}
    scores = [list(window[: len(class_ids)]) for window in ((0.75, 0.5), (0.9375, 0.25))]
    timeline = {"window_s": 5, "class_ids": class_ids, "scores": scores}
    return {
        "best": {"summary": f"top_k={len(class_ids)}", "value": {**answer, "predictions": [prediction]}},
        "timeline": {
            "summary": f"top_k={len(class_ids)}&timeline=true, a video of 6 to 10 seconds",
            "value": {**answer, "predictions": [{**prediction, "timeline": timeline}]},
        },
    }


def messages(predictor: Predictor) -> Mapping[int, str]:
    """Returns the message of each status with which POST /v1/predict refuses."""
    names = list(predictor.spec.sizes)
    missing = missing_feature(names[-1], predictor.spec, names[:-1])
    return {
        400: f"videos[0].{names[0]}: not base64 (standard alphabet, no line breaks): Incorrect padding",
        401: "authorization: expected Bearer and a token of this service",
        404: f"version: '0123abcd' is not served; valid: {predictor.version}",
        408: "body: expected all of it within 10 s, found 65536 bytes until then",
        413: "body: at most 33554432 bytes, found 1073741824",
        415: "content-encoding: expected gzip or deflate once, or none, found 'br'",
        422: f"videos[0]: {missing}",
        503: "256 videos wait already, some 2.0 s; retry in 2 s",
        504: "the deadline passed before the model had answered",
    }


def inference_example(spec: FeatureSpec) -> dict[str, Any]:
    """Returns a body of POST /v2/models/NAME/infer: one video."""
    datatype, head = ("FP32", [1]) if spec.is_video_level else ("UINT8", [1, 1])
    inputs = [
        {"name": name, "datatype": datatype, "shape": [*head, len(values)], "data": values}
        for name, values in _values(spec).items()
    ]
    return {"inputs": inputs, "parameters": {"top_k": 1}}


def instances_example(spec: FeatureSpec) -> dict[str, Any]:
    """Returns a body of POST /v1/models/NAME:predict: one video."""
    return {"instances": [_values(spec)], "parameters": {"top_k": 1}}


def add_examples(document: dict[str, Any], predictor: Predictor) -> None:
    for path, described in document["paths"].items():
        example = {"infer": inference_example, "predict": instances_example}.get(re.split("[/:]", path)[-1])
        if example is not None and path != "/v1/predict":
            described["post"]["requestBody"]["content"]["application/json"]["example"] = example(predictor.spec)
    operation = document["paths"]["/v1/predict"]["post"]
    operation["requestBody"]["content"]["application/json"]["examples"] = request_examples(predictor.spec)
    refusals = messages(predictor)
    for status, response in operation["responses"].items():
        content = response["content"]["application/json"]
        if status == "200":
            content["examples"] = answer_examples(predictor)
        elif int(status) in refusals:
            detail = {"code": CODES[int(status)], "message": refusals[int(status)], "request_id": _REQUEST_ID}
            content["example"] = {"error": detail}


def _values(spec: FeatureSpec) -> dict[str, list[Any]]:
    """Returns the means of a video, or its only frame."""
    value = 0.0 if spec.is_video_level else _MIDDLE
    return {name: [value] * size for name, size in spec.sizes.items()}

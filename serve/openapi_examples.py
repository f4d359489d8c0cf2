"""Examples in the OpenAPI document: bodies that a model of the published features takes, and what comes back."""

from __future__ import annotations

import base64
from typing import Any

from serve.errors import CODES
from yt8m_ray.schema import FRAME_FEATURES

_REQUEST_ID = "5f0c9f5e-5a0b-4c55-9d3c-0c2f3a5f2f10"
_MIDDLE = 128
"""The byte that stands for a value of about zero."""

# One frame is the shortest base64 that a model takes: "Try it out" then works.
_ONE_FRAME = {name: base64.b64encode(bytes([_MIDDLE]) * size).decode() for name, size in FRAME_FEATURES.items()}

REQUESTS: dict[str, Any] = {
    "one frame": {
        "summary": "A video of one frame, as base64",
        "value": {"videos": [{"video_id": "abcd", **_ONE_FRAME}], "top_k": 3},
    },
    "two videos": {
        "summary": "Two videos: all bytes in one list, or a list a frame",
        "value": {
            "videos": [
                {"video_id": "flat", **{name: [_MIDDLE] * size for name, size in FRAME_FEATURES.items()}},
                {"video_id": "nested", **{name: [[_MIDDLE] * size] * 2 for name, size in FRAME_FEATURES.items()}},
            ]
        },
    },
}

_LABELS = [
    {"class_id": 3, "knowledge_graph_id": "/m/01jddz", "name": "Concert", "vertical": "Arts & Entertainment"},
    {"class_id": 9, "knowledge_graph_id": "/m/0342h", "name": "Guitar", "vertical": "Arts & Entertainment"},
]
_PREDICTION = {
    "video_id": "abcd",
    "labels": [{**label, "score": score} for label, score in zip(_LABELS, (0.9125, 0.4375), strict=True)],
}
_ANSWER = {"model_name": "yt8m", "model_version": "3f8a1c0b7d21", "request_id": _REQUEST_ID}
_TIMELINE = {"window_s": 5, "class_ids": [3, 9], "scores": [[0.75, 0.5], [0.9375, 0.25]]}

ANSWERS: dict[str, Any] = {
    "top 2": {"summary": "top_k=2", "value": {**_ANSWER, "predictions": [_PREDICTION]}},
    "timeline": {
        "summary": "top_k=2&timeline=true, a video of 6 to 10 seconds",
        "value": {**_ANSWER, "predictions": [{**_PREDICTION, "timeline": _TIMELINE}]},
    },
}

MESSAGES = {
    400: "videos[0].rgb: not base64 (standard alphabet, no line breaks): Incorrect padding",
    401: "authorization: expected Bearer and a token of this service",
    404: "version: '0123abcd' is not served; valid: 3f8a1c0b7d21",
    408: "body: expected all of it within 10 s, found 65536 bytes until then",
    413: "body: at most 33554432 bytes, found 1073741824",
    422: "videos[0]: this model needs the frames audio; found rgb",
    503: "the queue of 256 videos is full; come again in 2 s",
    504: "the deadline passed before the model had answered",
}


def add_examples(document: dict[str, Any]) -> None:
    """Adds the examples to POST /v1/predict of an OpenAPI document."""
    operation = document["paths"]["/v1/predict"]["post"]
    operation["requestBody"]["content"]["application/json"]["examples"] = REQUESTS
    for status, response in operation["responses"].items():
        content = response["content"]["application/json"]
        if status == "200":
            content["examples"] = ANSWERS
        elif int(status) in MESSAGES:
            content["example"] = error_example(int(status))


def error_example(status: int) -> dict[str, Any]:
    """Returns the body of an error."""
    return {"error": {"code": CODES[status], "message": MESSAGES[status], "request_id": _REQUEST_ID}}

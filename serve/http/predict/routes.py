"""POST /v1/predict: the best classes of one or many videos."""

from __future__ import annotations

import asyncio
import functools
import time
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from serve.errors import RequestError
from serve.http.access_log import NOTES, note_model, note_stage
from serve.http.error_handlers import request_id
from serve.http.plain_routes import PlainRoute
from serve.http.predict.shard_stream import NDJSON_TYPE, TFRECORD_TYPE, ShardAnswer
from serve.http.requests import check_token, deadline_of, decode_body, query_parameters, wait_for
from serve.http.schemas import ErrorResponse, PredictResponse
from serve.http.service import Service
from serve.http.video_input import PredictionInput, decode_binary, decode_json, decode_ordinary, is_json, parse_top_k
from serve.model.batching import Answer
from serve.model.hosted_model import HostedModel
from serve.model.label_json import WINDOW_S, count_labels, dump, timeline_text
from serve.settings import Limits
from yt8m_ray.data.format.features import VideoRow

JSON_TYPE = "application/json"
BINARY_TYPE = "application/octet-stream"
_TYPES = (JSON_TYPE, BINARY_TYPE, TFRECORD_TYPE)

_PARAMETERS = ("top_k", "threshold", "names", "timeline", "version")


@dataclass(frozen=True)
class Options:
    """What the query asks for.

    Attributes:
        top_k: Classes a video; None is the service's default.
        threshold: Least score of a label.
        names: Whether labels have names.
        timeline: Whether the labels are scored by windows too.
        version: Of the model, None for whichever answers.
    """

    top_k: int | None
    threshold: float
    names: bool
    timeline: bool
    version: str | None


def add_predict_routes(api: FastAPI, service: Service) -> None:
    """Adds the route."""

    async def predict(request: Request) -> Response:
        check_token(request, service)
        content_type = _content_type(request)
        options = _options(request)
        model = service.host.choose(options.version)
        note_model(request, model.version)
        deadline = deadline_of(request, service)
        if content_type == TFRECORD_TYPE:
            return _answer_shard(service, model, options, request)
        service.batcher.check_room()  # before its body is read: a refusal must cost next to nothing
        decode = functools.partial(_decode, content_type, options, model, service.limits)
        decode_at_once = functools.partial(_decode_ordinary, content_type, options, model, service.limits)
        asked = await decode_body(request, service, deadline, decode, decode_at_once)
        return Response(await _answer(service, model, asked, options, request, deadline), media_type=JSON_TYPE)

    api.router.add_api_route(
        "/v1/predict",
        predict,
        methods=["POST"],
        summary="The best classes of each video",
        response_model=PredictResponse,
        responses=_RESPONSES,
        openapi_extra=_REQUEST_BODY,
        route_class_override=PlainRoute,
    )


def _answer_shard(service: Service, model: HostedModel, options: Options, request: Request) -> Response:
    if options.timeline:
        raise RequestError(422, "timeline: expected false for a whole shard, found true")
    service.batcher.check_room()

    def describe(video_id: str, answer: Answer) -> str:
        return f'{_prediction_fields(model, video_id, answer, options)},"model_version":{dump(model.version)}'

    return ShardAnswer(service, model, options.top_k, describe, request)


async def _answer(
    service: Service, model: HostedModel, asked: PredictionInput, options: Options, request: Request, deadline: float
) -> str:
    """Returns a PredictResponse as JSON.

    Raises:
        RequestError: there is no room in the queue, or the deadline passed.
    """
    request.scope[NOTES]["videos"] = len(asked.rows)
    answers = await wait_for(service, model, asked.rows, asked.top_k, deadline, request)
    timelines = None
    if options.timeline:
        timelines = await _timelines(service, model, asked.rows, answers, deadline, request)
    started = time.perf_counter()
    write = functools.partial(_write, service, model, asked.video_ids, answers, timelines, options, request_id(request))
    is_short = len(answers) * asked.top_k <= 1000 and timelines is None
    text = write() if is_short else await asyncio.to_thread(write)
    note_stage(request, "encode", time.perf_counter() - started)
    return text


async def _timelines(
    service: Service,
    model: HostedModel,
    rows: list[VideoRow],
    answers: list[Answer],
    deadline: float,
    request: Request,
) -> list[list[list[float]]]:
    """Returns for each video the scores of its labels, window by window."""
    timelines = []
    num_classes = model.predictor.spec.num_classes
    for row, answer in zip(rows, answers, strict=True):
        starts = range(0, len(row.frames), WINDOW_S)
        windows = [VideoRow(row.video_id, row.frames[start : start + WINDOW_S], row.labels) for start in starts]
        window_answers = await wait_for(service, model, windows, num_classes, deadline, request)
        scores = [dict(zip(each.class_ids, each.scores, strict=True)) for each in window_answers]
        timelines.append([[each[class_id] for class_id in answer.class_ids] for each in scores])
    return timelines


def _content_type(request: Request) -> str:
    """Returns one of the three types, or the empty string where the request names none."""
    given = request.headers.get("content-type", "")
    content_type = given.partition(";")[0].strip().lower()
    if content_type not in (*_TYPES, ""):
        raise RequestError(415, f"content-type: expected {' or '.join(_TYPES)}, found {given[:100]!r}")
    return content_type


def _options(request: Request) -> Options:
    given = query_parameters(request, _PARAMETERS)
    return Options(
        top_k=parse_top_k(given.get("top_k")),
        threshold=_number(given.get("threshold", "0"), "threshold"),
        names=_flag(given.get("names", "true"), "names"),
        timeline=_flag(given.get("timeline", "false"), "timeline"),
        version=given.get("version"),
    )


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise RequestError(422, f"{name}: expected a number from 0 to 1, found {text[:60]!r}")
    return value


def _flag(text: str, name: str) -> bool:
    if text not in ("true", "false"):
        raise RequestError(422, f"{name}: expected true or false, found {text[:60]!r}")
    return text == "true"


def _decode(content_type: str, options: Options, model: HostedModel, limits: Limits, body: bytes) -> PredictionInput:
    decode = decode_json if _has_json(content_type, body) else decode_binary
    return decode(body, options.top_k, model.predictor.spec, limits)


def _decode_ordinary(
    content_type: str, options: Options, model: HostedModel, limits: Limits, body: bytes
) -> PredictionInput | None:
    if _has_json(content_type, body):
        return None
    return decode_ordinary(body, options.top_k, model.records, model.predictor.spec, limits)


def _has_json(content_type: str, body: bytes) -> bool:
    return content_type == JSON_TYPE or (not content_type and is_json(body))


def _write(
    service: Service,
    model: HostedModel,
    video_ids: list[str],
    answers: list[Answer],
    timelines: list[list[list[float]]] | None,
    options: Options,
    identity: str,
) -> str:
    """Returns a PredictResponse as JSON."""
    predictions = []
    for index, (video_id, answer) in enumerate(zip(video_ids, answers, strict=True)):
        fields = _prediction_fields(model, video_id, answer, options)
        if timelines is not None:
            num_labels = count_labels(answer, options.threshold)
            fields = f'{fields},"timeline":{timeline_text(answer, timelines[index], num_labels)}'
        predictions.append(f"{{{fields}}}")
    head = dump({"model_name": service.args.name, "model_version": model.version, "request_id": identity})
    return f'{head[:-1]},"predictions":[{",".join(predictions)}]}}'


def _prediction_fields(model: HostedModel, video_id: str, answer: Answer, options: Options) -> str:
    """Returns the id and the labels of a Prediction, without the braces around them."""
    num_labels = count_labels(answer, options.threshold)
    labels = model.label_texts.labels(answer, num_labels=num_labels, names=options.names)
    return f'"video_id":{dump(video_id)},"labels":{labels}'


def _parameter(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": f"For {TFRECORD_TYPE} one line a record, in order: a Prediction or an error, with its `record`.",
        "content": {NDJSON_TYPE: {"schema": {"$ref": "#/components/schemas/RecordLine"}}},
    },
    **{status: {"model": ErrorResponse} for status in (400, 401, 404, 408, 413, 415, 422, 503, 504)},
}

_REQUEST_BODY: dict[str, Any] = {
    "parameters": [
        _parameter(
            "top_k",
            "Classes a video; the field of that name in a JSON body goes before it.",
            {"type": "integer", "minimum": 1},
        ),
        _parameter("threshold", "Least score of a label.", {"type": "number", "minimum": 0, "maximum": 1}),
        _parameter("names", "Whether labels have names.", {"type": "boolean", "default": True}),
        _parameter("timeline", "Whether labels are scored every 5 seconds too.", {"type": "boolean", "default": False}),
        _parameter("version", "The model's version; without it, whichever answers.", {"type": "string"}),
    ],
    "requestBody": {
        "required": True,
        "content": {
            JSON_TYPE: {"schema": {"$ref": "#/components/schemas/PredictRequest"}},
            BINARY_TYPE: {"schema": {"type": "string", "format": "binary"}},
            TFRECORD_TYPE: {"schema": {"type": "string", "format": "binary"}},
        },
    },
}

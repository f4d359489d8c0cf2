"""POST /v1/predict: the best classes of one or many videos."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.responses import Response

from serve.errors import RequestError
from serve.http import schemas
from serve.http.access_log import note_model
from serve.http.error_handlers import request_id
from serve.http.plain_routes import add_plain_route
from serve.http.predict.shard_stream import ShardAnswer
from serve.http.requests import ask_model, encode, query_parameters, wait_for
from serve.http.schemas import BINARY_TYPE, JSON_TYPE, TFRECORD_TYPE, PredictResponse
from serve.http.service import Service
from serve.http.video_input import PredictionInput, decode_binary, decode_json, decode_ordinary, is_json, parse_top_k
from serve.model.batching import Answer
from serve.model.hosted_model import HostedModel
from serve.model.label_json import WINDOW_S, count_labels, dump, timeline_text
from yt8m_ray.data.format.features import VideoRow

_TYPES = (JSON_TYPE, BINARY_TYPE, TFRECORD_TYPE)
_PARAMETERS = tuple(parameter["name"] for parameter in schemas.PREDICT_PARAMETERS)


@dataclass(frozen=True)
class Options:
    """The query, as `serve.http.schemas.PREDICT_PARAMETERS` describes it; None leaves the choice to the service."""

    top_k: int | None
    threshold: float
    names: bool
    timeline: bool
    version: str | None


def add_predict_routes(api: FastAPI, service: Service) -> None:
    async def predict(request: Request) -> Response:
        service.client_tokens.check(request)
        content_type = _content_type(request)
        options = _options(request)
        model = service.host.choose(options.version)
        note_model(request, model.version)
        if content_type == TFRECORD_TYPE:
            return _answer_shard(service, model, options, request)
        return await _predict(request, service, model, content_type, options)

    add_plain_route(
        api,
        "/v1/predict",
        predict,
        summary="The best classes of each video",
        answer=PredictResponse,
        responses=schemas.PREDICT_RESPONSES,
        parameters=schemas.PREDICT_PARAMETERS,
        body=schemas.PREDICT_BODY,
    )


def _answer_shard(service: Service, model: HostedModel, options: Options, request: Request) -> Response:
    if options.timeline:
        raise RequestError(422, "timeline: expected false for a whole shard, found true")
    service.batcher.check_room()

    def describe(video_id: str, answer: Answer) -> str:
        return f'{_prediction_fields(model, video_id, answer, options)},"model_version":{dump(model.version)}'

    return ShardAnswer(service, model, options.top_k, describe, request)


async def _predict(
    request: Request, service: Service, model: HostedModel, content_type: str, options: Options
) -> Response:
    spec, limits = model.predictor.spec, service.limits

    def is_text(body: bytes) -> bool:
        return content_type == JSON_TYPE or (not content_type and is_json(body))

    def decode(body: bytes) -> PredictionInput:
        read = decode_json if is_text(body) else decode_binary
        return read(body, options.top_k, spec, limits)

    def decode_at_once(body: bytes) -> PredictionInput | None:
        return None if is_text(body) else decode_ordinary(body, options.top_k, model.records, spec, limits)

    asked, answers, deadline = await ask_model(request, service, model, decode, decode_at_once)
    num_labels, timelines = len(answers) * asked.top_k, None
    if options.timeline:
        timelines = await _timelines(service, model, asked.rows, answers, deadline, request)
        num_labels += sum(map(len, timelines)) * asked.top_k

    def write() -> str:
        predictions = []
        for index, (video_id, answer) in enumerate(zip(asked.video_ids, answers, strict=True)):
            fields = _prediction_fields(model, video_id, answer, options)
            if timelines is not None:
                num_kept = count_labels(answer, options.threshold)
                fields = f'{fields},"timeline":{timeline_text(answer, timelines[index], num_kept)}'
            predictions.append(f"{{{fields}}}")
        name, version, identity = service.args.name, model.version, request_id(request)
        head = dump({"model_name": name, "model_version": version, "request_id": identity})
        return f'{head[:-1]},"predictions":[{",".join(predictions)}]}}'

    return Response(await encode(request, write, num_labels=num_labels), media_type=JSON_TYPE)


async def _timelines(
    service: Service, model: HostedModel, rows: list[VideoRow], answers: list[Answer], deadline: float, request: Request
) -> list[list[list[float]]]:
    """Returns the scores of each video's labels, window by window."""
    timelines = []
    # All classes: the video's labels need not be among the best of a window.
    num_classes = model.predictor.spec.num_classes
    for row, answer in zip(rows, answers, strict=True):
        starts = range(0, len(row.frames), WINDOW_S)
        windows = [VideoRow(row.video_id, row.frames[start : start + WINDOW_S], row.labels) for start in starts]
        window_answers = await wait_for(service, model, windows, num_classes, deadline, request)
        scores = [dict(zip(each.class_ids, each.scores, strict=True)) for each in window_answers]
        timelines.append([[each[class_id] for class_id in answer.class_ids] for each in scores])
    return timelines


def _content_type(request: Request) -> str:
    """Returns one of the three types, or the empty string if the request names none."""
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
    # `nan` is a number to Python, and fails this comparison.
    if not 0 <= value <= 1:
        raise RequestError(422, f"{name}: expected a number from 0 to 1, found {text[:60]!r}")
    return value


def _flag(text: str, name: str) -> bool:
    if text not in ("true", "false"):
        raise RequestError(422, f"{name}: expected true or false, found {text[:60]!r}")
    return text == "true"


def _prediction_fields(model: HostedModel, video_id: str, answer: Answer, options: Options) -> str:
    """Returns a Prediction as JSON without the braces around it."""
    num_labels = count_labels(answer, options.threshold)
    labels = model.label_texts.labels(answer, num_labels=num_labels, names=options.names)
    return f'"video_id":{dump(video_id)},"labels":{labels}'

"""GET /v1/examples: videos to try, the first of a shard or the golden videos of the model."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

import numpy as np
import pydantic
from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import Field

from serve.errors import RequestError
from serve.http.plain_routes import add_plain_route
from serve.http.schemas import BINARY_ANSWER, BINARY_TYPE, refusals
from serve.http.service import Service
from serve.model.hosted_model import HostedModel
from yt8m_ray.data.format.example import Fields, decode_record
from yt8m_ray.data.format.features import VideoRow
from yt8m_ray.data.format.tfrecord import read_payloads
from yt8m_ray.data.pipeline.single_record import encode_row
from yt8m_ray.data.samples import samples_folder
from yt8m_ray.data.storage.filesystem import open_stream
from yt8m_ray.schema import FRAME_FEATURES, ID_KEYS, LABELS_KEY, NUM_CLASSES_2018, VIDEO_FEATURES

NUM_EXAMPLES = 12
# By whether the model reads means.
_SAMPLES = {True: "video_level/validate0.tfrecord", False: "frame_level/one_real_video.tfrecord"}


class ExampleEntry(pydantic.BaseModel):
    id: str
    title: str
    num_frames: int | None = Field(description="null for a video that has means alone")
    labels: list[int] = Field(description="The classes that the record itself names")


class ExampleList(pydantic.BaseModel):
    is_made_up: bool = Field(description="Whether these are the inputs that the model checks itself with: noise")
    examples: list[ExampleEntry]


def add_example_routes(api: FastAPI, service: Service) -> None:
    held = Examples(service.args.examples)

    @api.get("/v1/examples", summary="Videos to try", responses=refusals(401))
    async def examples(request: Request) -> ExampleList:
        service.client_tokens.check(request)
        found = await held.of(service.host.current)
        is_made_up = held.shard_for(service.host.current) is None
        return ExampleList(is_made_up=is_made_up, examples=[each.entry for each in found.values()])

    async def example(request: Request) -> Response:
        service.client_tokens.check(request)
        example_id = request.path_params["example_id"]
        found = await held.of(service.host.current)
        if example_id not in found:
            valid = ", ".join(found) or "none"
            raise RequestError(404, f"example: {example_id[:60]!r} is not one of them; valid: {valid}")
        return Response(found[example_id].record, media_type=BINARY_TYPE)

    add_plain_route(
        api,
        "/v1/examples/{example_id}",
        example,
        summary="One of them, a serialized SequenceExample or Example",
        responses={**BINARY_ANSWER, **refusals(401, 404)},
        response_class=Response,
    )


@dataclass(frozen=True)
class ExampleVideo:
    entry: ExampleEntry
    record: bytes  # a serialized Example or SequenceExample


class Examples:
    """The examples of a replica, read at the first use and kept.

    Without a shard of its own they are real videos that come along, or what the model checks itself with where it reads
    other features than those.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._lock = asyncio.Lock()
        self._of_shards: dict[str, dict[str, ExampleVideo]] = {}

    def shard_for(self, model: HostedModel) -> str | None:
        """Returns the shard of a model's examples, None where there is none."""
        if self._path is not None:
            return self._path
        spec = model.predictor.spec
        fits = spec.num_classes == NUM_CLASSES_2018 and spec.sizes in (VIDEO_FEATURES, FRAME_FEATURES)
        found = samples_folder() / _SAMPLES[spec.is_video_level]
        return str(found) if fits and found.is_file() else None

    async def of(self, model: HostedModel) -> dict[str, ExampleVideo]:
        """Returns the examples by id, in order; ValueError or OSError if the shard cannot be read."""
        shard = self.shard_for(model)
        if shard is None:
            return await asyncio.to_thread(_golden_examples, model)
        # Requests that come meanwhile wait, and do not read it again.
        async with self._lock:
            if shard not in self._of_shards:
                self._of_shards[shard] = await asyncio.to_thread(_read_examples, shard)
            return self._of_shards[shard]


def _read_examples(path: str) -> dict[str, ExampleVideo]:
    with open_stream(path) as stream:
        payloads = [bytes(each) for _, _, each in itertools.islice(read_payloads(stream, path=path), NUM_EXAMPLES)]
    examples = {}
    for index, payload in enumerate(payloads, 1):
        fields = decode_record(payload)
        # Means alone have no sequences.
        lengths = [len(steps) for steps in fields.sequences.values()]
        entry = ExampleEntry(
            id=str(index), title=_title(fields, index), num_frames=max(lengths, default=None), labels=_labels(fields)
        )
        examples[entry.id] = ExampleVideo(entry, payload)
    return examples


def _labels(fields: Fields) -> list[int]:
    labels = fields.context.get(LABELS_KEY)
    return [] if labels is None else [int(label) for label in labels]


def _title(fields: Fields, index: int) -> str:
    for values in (fields.context.get(key) for key in ID_KEYS):
        if isinstance(values, list) and len(values) == 1 and values[0]:
            return values[0].decode("utf-8", "replace")
    return f"record {index}"


def _golden_examples(model: HostedModel) -> dict[str, ExampleVideo]:
    golden, spec = model.predictor.golden, model.predictor.spec
    if golden is None:
        return {}
    videos, examples = golden.videos, {}
    for index, clip in enumerate(np.split(videos.frames, np.cumsum(videos.num_frames)[:-1]), 1):
        num_frames = None if spec.is_video_level else len(clip)
        entry = ExampleEntry(id=str(index), title=f"made-up-{index}", num_frames=num_frames, labels=[])
        examples[entry.id] = ExampleVideo(entry, encode_row(VideoRow(entry.title, clip, np.empty(0, np.int32)), spec))
    return examples

"""What goes over the wire and what an operator may set: the types behind the OpenAPI document and serve/config.yaml."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from pydantic import Field

from yt8m_ray.registry import Config


class ServeArgs(Config):
    """What a replica is built with; a change starts new replicas.

    Attributes:
        model: A bundle (folder or tar) or a checkpoint, here or in an object store, or `models:/NAME@ALIAS` in MLflow,
            whose alias is then followed; None takes the environment variable YT8M_MODEL.
        name: What clients of the Open Inference Protocol call it.
        allowed_hosts: Names by which clients call the service, without ports: a request whose Host header has another
            name is refused with 421. Addresses are answered always; `*` takes all names.
        num_threads: Threads of a replica's tensor operations. Replicas with more threads than cores slow each other.
        tokens_file: Bearer tokens of clients, one a line, read again when the file changes; None asks for none.
        admin_tokens_file: Those of operators; None switches the administration over HTTP off.
        access_log: A folder where each replica writes a file with a line of JSON for each request; None writes these
            lines into Ray Serve's own log.
        alias_interval_s: How often MLflow is asked whether the alias has moved.
        examples: A shard whose first videos the page offers to try; None offers the bundle's golden videos.
    """

    model: str | None = None
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] = "yt8m"
    allowed_hosts: tuple[Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9_.-]+)$")], ...] = ("localhost",)
    num_threads: Annotated[int, Field(ge=1)] = 1
    tokens_file: str | None = None
    admin_tokens_file: str | None = None
    access_log: str | None = None
    alias_interval_s: Annotated[float, Field(gt=0)] = 10.0
    examples: str | None = None


class Limits(Config):
    """What a running replica can change in place.

    Attributes:
        max_batch_size: Videos that go through the model at once.
        target_latency_s: What a batch may take: batches are made no larger than the model can compute in it.
        max_queued_videos: Videos that wait for the model; beyond them requests are refused with 503.
        max_queue_s: What those that wait may take in all, by the model's pace; beyond it requests are refused too.
        deadline_s: What a request may take before it is refused with 504; a client can ask for less.
        body_timeout_s: What a body may take to arrive; a stream, each of its parts.
        max_body_bytes: Largest request body; of a stream of records, the largest record.
        max_stream_bytes: Largest stream of records.
        max_pending_bytes: What the bodies of all requests may hold that are being read or decoded; beyond it requests
            are refused with 503. A quarter of it is for bodies of at most 1 MiB alone.
        max_json_values: Most values in the lists of a JSON body: reading them holds up everything else.
        max_videos: Most videos a request.
        max_labels: Most labels of an answer: its videos times its classes a video.
        default_top_k: Classes a video where the request names no number.
        models: Places of the models that an operator can switch to, by name; no request can name a place.
    """

    max_batch_size: Annotated[int, Field(ge=1)] = 32
    target_latency_s: Annotated[float, Field(gt=0)] = 0.25
    max_queued_videos: Annotated[int, Field(ge=1)] = 256
    max_queue_s: Annotated[float, Field(gt=0)] = 2.0
    deadline_s: Annotated[float, Field(gt=0)] = 30.0
    body_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    max_body_bytes: Annotated[int, Field(ge=1)] = 32 * 2**20
    max_stream_bytes: Annotated[int, Field(ge=1)] = 4 * 2**30
    max_pending_bytes: Annotated[int, Field(ge=1)] = 256 * 2**20
    max_json_values: Annotated[int, Field(ge=1)] = 500_000
    max_videos: Annotated[int, Field(ge=1)] = 64
    max_labels: Annotated[int, Field(ge=1)] = 100_000
    default_top_k: Annotated[int, Field(ge=1)] = 20
    models: dict[str, str] = Field(default_factory=dict)


class _Message(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class Label(pydantic.BaseModel):
    class_id: int
    knowledge_graph_id: str | None = Field(default=None, description="Such as /m/01mw1; null where there is none")
    name: str | None = Field(default=None, description="null where there is none; names=false leaves all three out")
    vertical: str | None = Field(default=None, description="The first group of topics that the class belongs to")
    score: float = Field(description="Probability, 0 to 1")


class Timeline(pydantic.BaseModel):
    window_s: int = Field(description="Seconds, which are frames, of a window; the last one may be shorter")
    class_ids: list[int] = Field(description="Those of the video's labels")
    scores: list[list[float]] = Field(description="One list a window: the score of each class by those frames alone")


class Prediction(pydantic.BaseModel):
    video_id: str
    labels: list[Label] = Field(description="Best first; equal scores by class id")
    timeline: Timeline | None = Field(default=None, description="Only with timeline=true")


class PredictResponse(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str = Field(description="Of the exact files; the query parameter `version` asks for it")
    request_id: str
    predictions: list[Prediction] = Field(description="One for each video, in the order of the request")


class Health(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(protected_namespaces=())

    status: str
    model_version: str


class Change(_Message):
    """A change of releases: a name of `user_config.models`, or the number of a version in MLflow."""

    model: str | None = Field(default=None, max_length=200, description="null finishes, or goes on with, the canary")
    share: float = Field(default=0.0, ge=0, le=1, description="Of the requests; for a canary alone, 0 ends it")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None or name not in cls.model_fields}


class ErrorDetail(pydantic.BaseModel):
    code: str
    message: str
    request_id: str


class ErrorResponse(pydantic.BaseModel):
    error: ErrorDetail


class RecordLine(pydantic.BaseModel):
    """One line of the answer to a whole shard: `video_id`, `labels` and `model_version`, or `error`."""

    model_config = pydantic.ConfigDict(protected_namespaces=())

    record: int = Field(description="Index in the shard")
    video_id: str | None = None
    labels: list[Label] | None = Field(default=None, description="Best first; equal scores by class id")
    model_version: str | None = None
    error: ErrorDetail | None = None
    is_last: bool | None = Field(default=None, description="true with an error behind which nothing could be read")

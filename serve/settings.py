"""The settings of the service."""

from __future__ import annotations

from typing import Annotated

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

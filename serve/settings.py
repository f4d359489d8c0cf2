"""The settings of the service."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from yt8m_ray.registry import Config

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class ServeArgs(Config):
    """The arguments of a replica; a change starts new replicas."""

    # A bundle (folder or tar) or a checkpoint, local or in an object store, or `models:/NAME@ALIAS` in MLflow,
    # whose alias is then followed; None takes the environment variable YT8M_MODEL.
    model: str | None = None
    # Of the model, for clients of the inference protocols.
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] = "yt8m"
    # Names of the service, without ports: a request whose Host header has another name is refused with 421.
    # Addresses are always answered; `*` accepts all names.
    allowed_hosts: tuple[Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9_.-]+)$")], ...] = ("localhost",)
    # Of a replica's tensor operations. Replicas with more threads than cores slow each other.
    num_threads: Count = 1
    # Bearer tokens of clients, one a line, read again when the file changes; None asks for none.
    tokens_file: str | None = None
    # Those of operators; None switches the administration over HTTP off.
    admin_tokens_file: str | None = None
    # A folder where each replica writes a file with a line of JSON for each request; None writes these lines into
    # Ray Serve's own log.
    access_log: str | None = None
    # Between two looks whether the alias has moved.
    alias_interval_s: Seconds = 10.0
    # A shard whose first videos the page offers to try; None offers the bundle's golden videos.
    examples: str | None = None


class Limits(Config):
    """The settings that a running replica changes in place."""

    # Videos that go through the model at once.
    max_batch_size: Count = 32
    # Of a batch: batches are made no larger than the model can compute in it.
    target_latency_s: Seconds = 0.25
    # Beyond so many videos that wait for the model, requests are refused with 503.
    max_queued_videos: Count = 256
    # Beyond so many seconds that they will take, at the model's pace, requests are refused too.
    max_queue_s: Seconds = 2.0
    # A request that takes longer is refused with 504; a client can ask for less.
    deadline_s: Seconds = 30.0
    # For a body to arrive; for a stream, each of its parts.
    body_timeout_s: Seconds = 10.0
    # Of a request body; of a stream of records, of one record.
    max_body_bytes: Count = 32 * 2**20
    # Of a stream of records.
    max_stream_bytes: Count = 4 * 2**30
    # Of all bodies that are being read or decoded; beyond it requests are refused with 503. A quarter of it is
    # for bodies of at most 1 MiB alone.
    max_pending_bytes: Count = 256 * 2**20
    # In the lists of a JSON body: reading them holds up everything else.
    max_json_values: Count = 500_000
    # A request.
    max_videos: Count = 64
    # Of an answer: its videos times its classes a video.
    max_labels: Count = 100_000
    # Classes a video if the request names no number.
    default_top_k: Count = 20
    # Places of the models that an operator can switch to, by name; no request can name a place.
    models: dict[str, str] = Field(default_factory=dict)

"""The settings of the service."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from yt8m_ray.registry import Config

# The texts below the fields are the help of the flags of `yt8m serve`.
_DESCRIBED = ConfigDict(use_attribute_docstrings=True)

MODEL_VARIABLE = "YT8M_MODEL"
"""The environment variable that names the model if `args.model` does not."""

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class ServeArgs(Config):
    """The arguments of a replica; a change starts new replicas."""

    model_config = _DESCRIBED

    model: str | None = None
    """A bundle (folder or tar) or a checkpoint, local or in an object store, or `models:/NAME@ALIAS` in MLflow,
    whose alias is then followed; None takes the environment variable YT8M_MODEL."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] = "yt8m"
    """Of the model, for clients of the inference protocols."""
    allowed_hosts: tuple[Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9_.-]+)$")], ...] = ("localhost",)
    """Names of the service, without ports: a request whose Host header has another name is refused with 421.
    Addresses are always answered; `*` accepts all names."""
    num_threads: Count = 1
    """Of a replica's tensor operations. Replicas with more threads than cores slow each other."""
    tokens_file: str | None = None
    """Bearer tokens of clients, one a line, read again when the file changes; None asks for none."""
    admin_tokens_file: str | None = None
    """Those of operators; None switches the administration over HTTP off."""
    access_log: str | None = None
    """A folder where each replica writes a file with a line of JSON for each request; None writes these lines into
    Ray Serve's own log."""
    alias_interval_s: Seconds = 10.0
    """Between two looks whether the alias has moved."""
    examples: str | None = None
    """A shard whose first videos the page offers to try; None offers real videos that come along, or, for a model of
    other features, those that its bundle checks itself with."""


class Limits(Config):
    """The settings that a running replica changes in place."""

    model_config = _DESCRIBED

    max_batch_size: Count = 32
    """Videos that go through the model at once."""
    target_latency_s: Seconds = 0.25
    """Of a batch: batches are made no larger than the model can compute in it."""
    max_queued_videos: Count = 256
    """Beyond so many videos that wait for the model, requests are refused with 503."""
    max_queue_s: Seconds = 2.0
    """Beyond so many seconds that they will take, at the model's pace, requests are refused too."""
    deadline_s: Seconds = 30.0
    """A request that takes longer is refused with 504; a client can ask for less."""
    body_timeout_s: Seconds = 10.0
    """For a body to arrive; for a stream, each of its parts."""
    max_body_bytes: Count = 32 * 2**20
    """Of a request body; of a stream of records, of one record."""
    max_stream_bytes: Count = 4 * 2**30
    """Of a stream of records."""
    max_pending_bytes: Count = 256 * 2**20
    """Of all bodies that are being read or decoded; beyond it requests are refused with 503. A quarter of it is for
    bodies of at most 1 MiB alone."""
    max_json_values: Count = 500_000
    """In the lists of a JSON body: reading them holds up everything else."""
    max_videos: Count = 64
    """A request."""
    max_labels: Count = 100_000
    """Of an answer: its videos times its classes a video."""
    default_top_k: Count = 20
    """Classes a video if the request names no number."""
    models: dict[str, str] = Field(default_factory=dict)
    """Places of the models that an operator can switch to, by name; no request can name a place."""

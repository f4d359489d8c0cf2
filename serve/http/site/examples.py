"""The videos that the page offers to try: the first of a shard, or those that the model checks itself with."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

import numpy as np

from serve.model.hosted_model import HostedModel
from yt8m_ray.data.format.example import Fields, decode_record
from yt8m_ray.data.format.features import FeatureSpec, VideoRow
from yt8m_ray.data.format.tfrecord import read_payloads
from yt8m_ray.data.pipeline.single_record import encode_row
from yt8m_ray.data.storage.filesystem import open_stream
from yt8m_ray.schema import ID_KEYS

NUM_EXAMPLES = 12


@dataclass(frozen=True)
class ExampleVideo:
    """A video to try.

    Attributes:
        title: For people: the video's id.
        num_frames: None where it has means alone.
        record: The serialized Example or SequenceExample.
    """

    title: str
    num_frames: int | None
    record: bytes


class Examples:
    """The examples of a replica, read on the first use and kept.

    Args:
        path: A shard, here or in an object store; None takes the golden videos of whichever model is asked.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._lock = asyncio.Lock()
        self._of_shard: dict[str, ExampleVideo] | None = None

    async def of(self, model: HostedModel) -> dict[str, ExampleVideo]:
        """Returns the examples by their ids, in order; none where there are neither a shard nor golden videos.

        Raises:
            ValueError, OSError: the shard cannot be read.
        """
        if self._path is None:
            return await asyncio.to_thread(_golden_examples, model)
        async with self._lock:  # requests that come meanwhile do not read it once more
            if self._of_shard is None:
                self._of_shard = await asyncio.to_thread(_read_examples, self._path)
            return self._of_shard


def _read_examples(path: str) -> dict[str, ExampleVideo]:
    with open_stream(path) as stream:
        payloads = [bytes(each) for _, _, each in itertools.islice(read_payloads(stream, path=path), NUM_EXAMPLES)]
    return {str(index): _example(payload, index) for index, payload in enumerate(payloads, 1)}


def _example(payload: bytes, index: int) -> ExampleVideo:
    fields = decode_record(payload)
    lengths = [len(steps) for steps in fields.sequences.values()]
    return ExampleVideo(_title(fields, index), max(lengths, default=None), payload)


def _title(fields: Fields, index: int) -> str:
    for values in (fields.context.get(key) for key in ID_KEYS):
        if isinstance(values, list) and len(values) == 1 and values[0]:
            return values[0].decode("utf-8", "replace")
    return f"record {index}"


def _golden_examples(model: HostedModel) -> dict[str, ExampleVideo]:
    golden, spec = model.predictor.golden, model.predictor.spec
    if golden is None:
        return {}
    videos = golden.videos
    clips = np.split(videos.frames, np.cumsum(videos.num_frames)[:-1])
    return {str(index): _made_up_example(f"made-up-{index}", clip, spec) for index, clip in enumerate(clips, 1)}


def _made_up_example(title: str, clip: np.ndarray, spec: FeatureSpec) -> ExampleVideo:
    record = encode_row(VideoRow(title, clip, np.empty(0, np.int32)), spec)
    return ExampleVideo(title, None if spec.is_video_level else len(clip), record)

"""Single records by the compiled loops of `yt8m_ray.data.pipeline.fast_decode`, such as a service gets them."""

from __future__ import annotations

import numpy as np

from yt8m_ray.data.format.example import encode_example, encode_sequence_example
from yt8m_ray.data.format.features import FeatureSpec, VideoRow
from yt8m_ray.data.pipeline.fast_decode import DONE, VIDEO_COLUMNS, pack_records, reading_of
from yt8m_ray.schema import ID_KEYS

_NO_LABELS = np.empty(0, np.int32)


class OrdinaryRecords:
    """Reads records that are laid out as usual; labels are passed over."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._spec = spec
        self._width = spec.dim * np.dtype(spec.dtype).itemsize
        self._max_frames = spec.max_frames + 1  # so that a longer video can be told from a whole one
        self._reading = reading_of(
            spec.sizes,
            max_frames=self._max_frames,
            num_classes=spec.num_classes,
            labels="ignored",
            video_level=spec.is_video_level,
        )

    def read(self, payload: bytes | memoryview) -> VideoRow | None:
        """Returns the video of a serialized Example or SequenceExample, or None where the record is not ordinary.

        A video of more frames than `max_frames` has `max_frames + 1`.
        """
        # None also stands for whatever is wrong with a record: `decode_record` and `to_row` say what.
        data = np.array(np.frombuffer(payload, np.uint8))  # the loops are compiled for memory that can be written to
        # No record holds more frames than bytes of them.
        frames = np.empty((min(self._max_frames, len(data) // self._width + 1), self._width), np.uint8)
        starts, ends = np.zeros(1, np.int64), np.array([len(data)])
        found = np.empty((1, len(VIDEO_COLUMNS)), np.int64)
        _, num_rows, _, status = pack_records(data, starts, ends, self._reading, frames, _NO_LABELS, found)
        if status != DONE:
            return None
        id_start, id_end = found[0, :2].tolist()
        rows = frames[:num_rows].reshape(-1).view(self._spec.dtype).reshape(num_rows, self._spec.dim)
        return VideoRow(data[id_start:id_end].tobytes().decode("ascii"), rows, None)


def encode_row(row: VideoRow, spec: FeatureSpec) -> bytes:
    """Returns a video as a serialized record without labels: an Example at video level, else a SequenceExample."""
    parts = np.split(row.frames, np.cumsum(list(spec.sizes.values()))[:-1], axis=1)
    features = dict(zip(spec.sizes, parts, strict=True))
    context = {ID_KEYS[0]: [row.video_id.encode()]}
    if spec.is_video_level:
        return encode_example({**context, **{name: part[0] for name, part in features.items()}})
    return encode_sequence_example(context, features)

"""What a body may cost: counted in calls and bytes, since the time on a shared machine says nothing."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from serve.errors import RequestError
from serve.http.open_inference.protocol import decode_inference
from serve.http.v1_protocol import decode_instances
from serve.http.video_input import decode_binary, decode_json, decode_ordinary
from serve.settings import Limits
from tests.support.costly import costly_json, costly_records, empty_steps, num_calls
from tests.support.wire import field
from yt8m_ray.data.format.example import encode_example
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.pipeline.single_record import OrdinaryRecords
from yt8m_ray.schema import FRAME_FEATURES, VIDEO_FEATURES

SPEC = FeatureSpec(FRAME_FEATURES, num_classes=3862)
MEANS = FeatureSpec(VIDEO_FEATURES, num_classes=3862)
LIMITS = Limits()
MANY = LIMITS.max_json_values + 1

RECORDS = {"steps": empty_steps(2**20), "8 MiB of steps": empty_steps(2**23), **costly_records(300_000)}
JSON = costly_json(MANY)


def refuse(decode: Callable[..., Any], *arguments: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decode(*arguments)
    return caught.value


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("spec", [SPEC, MEANS], ids=["frames", "means"])
def test_a_record_of_too_much_is_refused_after_some_thousand_steps(name: str, spec: FeatureSpec) -> None:
    assert num_calls(lambda: refuse(decode_binary, RECORDS[name], None, spec, LIMITS)) < 200_000


@pytest.mark.parametrize("name", ["steps", "8 MiB of steps"])
def test_too_many_steps_are_told_as_too_many_frames(name: str) -> None:
    error = refuse(decode_binary, RECORDS[name], None, FeatureSpec({"rgb": 1024}, num_classes=3), LIMITS)

    assert (error.status, error.message) == (422, "body.rgb: expected 1 to 300 frames, found 301 or more")


@pytest.mark.parametrize("name", RECORDS)
def test_in_the_event_loop_it_is_only_looked_at_by_compiled_loops(name: str) -> None:
    records = OrdinaryRecords(SPEC)
    records.read(b"")  # compiles

    assert num_calls(lambda: decode_ordinary(RECORDS[name], None, records, SPEC, LIMITS)) < 100


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("decode", ["json", "inference"])
def test_json_of_too_much_is_refused_before_anything_is_made_of_it(name: str, decode: str) -> None:
    arguments = (JSON[name], None, SPEC, LIMITS)

    tracemalloc.start()
    error = refuse(decode_json if decode == "json" else decode_inference, *arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert error.status in (400, 422)
    assert peak < 2**20


@pytest.mark.parametrize("body", [b'{"videos":[%s]}', b"[%s]", b'{"instances":[%s]}', b'{"inputs":[%s]}'])
def test_of_too_many_videos_none_is_looked_at(body: bytes) -> None:
    decode = next(
        (each for key, each in ((b"instances", decode_instances), (b"inputs", decode_inference)) if key in body),
        decode_json,
    )
    content = body % b",".join([b"0"] * (LIMITS.max_json_values - 10))

    assert num_calls(lambda: refuse(decode, content, None, FeatureSpec({"x": 2}, num_classes=3), LIMITS)) < 20_000


def test_the_limits_leave_room_for_all_that_a_request_may_hold() -> None:
    spec = FeatureSpec({"rgb": 2, "audio": 1}, num_classes=3)
    frames = {"rgb": [[1, 2]] * 300, "audio": [1] * 300}
    videos = [{"video_id": ":{,}" * 20, **frames} for _ in range(64)]

    asked = decode_json(json.dumps({"videos": videos}).encode(), None, spec, LIMITS)

    assert len(asked.rows) == 64 and asked.video_ids[0] == ":{,}" * 20


def test_one_video_of_one_frame_is_not_too_much() -> None:
    spec, limits = FeatureSpec({"x": 1}, num_classes=3, max_frames=1), Limits(max_videos=1)
    tensor = {"name": "x", "datatype": "UINT8", "shape": [1, 1, 1], "parameters": {}, "data": [[[1]]]}
    body = {"id": ":{[", "inputs": [tensor], "outputs": [{"name": "scores", "parameters": {}}], "parameters": {}}

    assert len(decode_inference(json.dumps(body).encode(), None, spec, limits).rows) == 1


def test_an_odd_record_with_as_much_as_a_video_has_is_read() -> None:
    def entry(name: str, value: bytes) -> bytes:
        return field(1, field(1, name.encode()) + field(2, value))

    def steps(size: int) -> bytes:
        # Behind each bytes list stands a field that nobody knows: no step is laid out as usual.
        frames = [field(1, field(1, bytes([index % 256]) * size)) + field(6, b"") for index in range(300)]
        return b"".join(field(1, frame) for frame in frames)

    lists = b"".join(entry(name, steps(size)) for name, size in FRAME_FEATURES.items())
    labels = entry("labels", field(3, field(1, b"\x01" * 1000)))

    asked = decode_binary(field(1, labels) + field(2, lists), None, SPEC, LIMITS)

    assert asked.rows[0].frames.shape == (300, 1152)
    assert asked.rows[0].frames[7].tolist() == [7] * 1152


def test_base64_of_too_many_frames_is_not_decoded() -> None:
    body = b'{"videos": [{"rgb": "' + b"A" * 2**23 + b'", "audio": ""}]}'

    error = refuse(decode_json, body, None, SPEC, LIMITS)

    assert error.message == "videos[0].rgb: expected 1 to 300 frames, found 6144"


def test_names_of_what_was_found_are_as_few_and_short_as_one_can_read() -> None:
    record = encode_example({f"{index:03}{'x' * 5000}": np.zeros(1, np.float32) for index in range(500)})

    error = refuse(decode_binary, record, None, SPEC, LIMITS)

    assert len(error.message) < 500 and error.message.endswith("and 492 more")

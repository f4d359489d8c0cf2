from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tfrecord import example_pb2

from yt8m_ray.data.format.example import decode_record, encode_example, encode_sequence_example

FLOATS = [1.5, -0.0, float("inf"), 3.4e38]


def test_an_example_is_encoded_as_protobuf_does() -> None:
    features = {"id": [b"ab", b""], "labels": np.array([-1, 300, 0]), "mean_rgb": np.array(FLOATS, np.float32), "e": []}
    message = example_pb2.Example()
    message.features.feature["id"].bytes_list.value.extend([b"ab", b""])
    message.features.feature["labels"].int64_list.value.extend([-1, 300, 0])
    message.features.feature["mean_rgb"].float_list.value.extend(FLOATS)
    message.features.feature["e"].bytes_list.SetInParent()

    payload = encode_example(features)

    assert payload == message.SerializeToString(deterministic=True)


@pytest.mark.parametrize("shape", [(3, 1024), (2, 5), (1, 0), (0, 8)])
def test_frames_are_encoded_as_protobuf_does(shape: tuple[int, int]) -> None:
    frames = np.arange(shape[0] * shape[1]).astype(np.uint8).reshape(shape)
    message = example_pb2.SequenceExample()
    message.context.feature["id"].bytes_list.value.append(b"v")
    message.feature_lists.feature_list["rgb"].SetInParent()
    for row in frames:
        message.feature_lists.feature_list["rgb"].feature.add().bytes_list.value.append(row.tobytes())

    assert encode_sequence_example({"id": [b"v"]}, {"rgb": frames}) == message.SerializeToString(deterministic=True)


def test_features_are_encoded_in_the_order_of_their_names() -> None:
    assert list(decode_record(encode_example({"b": [b""], "a": [b""]})).context) == ["a", "b"]


def test_features_are_decoded_in_the_order_in_which_they_stand() -> None:
    first, second = encode_example({"b": [b""]}), encode_example({"a": [b""]})

    assert list(decode_record(first + second).context) == ["b", "a"]


@pytest.mark.parametrize("values", [np.zeros((2, 2), np.float32), np.array(1.0), np.array(["text"]), np.array([True])])
def test_values_that_no_list_can_hold_are_refused(values: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^mean_rgb: expected bytes in a list, or floats or integers in an array \[n\]"
    ):
        encode_example({"mean_rgb": values})


def test_frames_that_are_not_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^rgb: expected a uint8 array \[T, size\], found float64 \[3, 4\]"):
        encode_sequence_example({}, {"rgb": np.zeros((3, 4))})

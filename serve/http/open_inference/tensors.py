"""Tensors of the Open Inference Protocol -> rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pydantic
from pydantic import Field

from serve.errors import RequestError
from serve.http.video_input import refusals
from serve.settings import Limits
from yt8m_ray.data.format.features import FeatureSpec, VideoRow
from yt8m_ray.data.format.video_input import checked_row, shorten

Array = npt.NDArray[Any]

DTYPES = {"UINT8": "u1", "INT32": "<i4", "INT64": "<i8", "FP32": "<f4"}  # the protocol's names -> NumPy's

# A parameter: how many of the bytes after the JSON belong to a tensor.
BINARY_SIZE = "binary_data_size"
_NUM_FRAMES = "num_frames"


def _given(parameters: object) -> object:
    # null stands for a parameter that is not given: the types of MLServer send it.
    if not isinstance(parameters, dict):
        return {} if parameters is None else parameters
    return {name: value for name, value in parameters.items() if value is not None}


Parameters = Annotated[dict[str, Any], pydantic.BeforeValidator(_given, json_schema_input_type=dict[str, Any] | None)]


class ProtocolPart(pydantic.BaseModel):
    """A part of a request."""

    # Clients add keys of their own servers, which are ignored.
    model_config = pydantic.ConfigDict(extra="ignore", strict=True, frozen=True)


class InputTensor(ProtocolPart):
    name: str = Field(max_length=100)
    datatype: str = Field(max_length=20)
    shape: list[Annotated[int, Field(ge=1, le=2**31 - 1)]] = Field(min_length=1, max_length=3)
    parameters: Parameters = Field(default_factory=dict, description="binary_data_size: bytes after the JSON")
    data: list[Any] | None = Field(default=None, description="Nested, or all values in one list")


class TensorMetadata(pydantic.BaseModel):
    name: str
    datatype: str
    shape: list[int] = Field(description="-1 stands for any size")


def input_metadata(spec: FeatureSpec) -> list[TensorMetadata]:
    """Returns the tensors that a model takes; `num_frames` is optional, and may be INT32 too."""
    if spec.is_video_level:
        return [TensorMetadata(name=name, datatype="FP32", shape=[-1, size]) for name, size in spec.sizes.items()]
    frames = [TensorMetadata(name=name, datatype="UINT8", shape=[-1, -1, size]) for name, size in spec.sizes.items()]
    return [*frames, TensorMetadata(name=_NUM_FRAMES, datatype="INT64", shape=[-1])]


def read_tensors(inputs: Sequence[InputTensor], binary: memoryview, spec: FeatureSpec) -> dict[str, Array]:
    """Returns the inputs by name, in their shapes; those with binary data are views of it."""
    datatypes: dict[str, tuple[str, ...]] = {each.name: (each.datatype,) for each in input_metadata(spec)}
    if _NUM_FRAMES in datatypes:
        datatypes[_NUM_FRAMES] = ("INT64", "INT32")
    tensors: dict[str, Array] = {}
    for tensor in inputs:
        name = tensor.name
        if name not in datatypes or name in tensors:
            problem = "is given twice" if name in tensors else f"no input of this model; valid: {', '.join(datatypes)}"
            raise RequestError(422, f"inputs: {name[:60]!r}: {problem}")
        if tensor.datatype not in datatypes[name]:
            raise RequestError(422, f"{name}: expected {' or '.join(datatypes[name])}, found {tensor.datatype!r}")
        if tensor.data is None:
            tensors[name], binary = _from_binary(tensor, binary)
        elif BINARY_SIZE in tensor.parameters:
            raise RequestError(422, f"{name}: expected data or {BINARY_SIZE}, found both")
        else:
            tensors[name] = _from_list(tensor)
    if len(binary):
        raise RequestError(400, f"body: {len(binary)} bytes follow the last tensor")
    return tensors


def _from_binary(tensor: InputTensor, binary: memoryview) -> tuple[Array, memoryview]:
    """Returns a tensor and the binary data after it."""
    dtype, announced = np.dtype(DTYPES[tensor.datatype]), tensor.parameters.get(BINARY_SIZE)
    if announced is None:
        raise RequestError(422, f"{tensor.name}: expected data, or {BINARY_SIZE} and as many bytes after the JSON")
    size = math.prod(tensor.shape) * dtype.itemsize
    if type(announced) is not int or announced != size:
        found = f"has {size} bytes, {BINARY_SIZE} is {shorten(announced)}"
        raise RequestError(422, f"{tensor.name}: shape {tensor.shape} {found}")
    if size > len(binary):
        raise RequestError(400, f"{tensor.name}: {size} bytes promised, {len(binary)} found after the JSON")
    return np.frombuffer(binary[:size], dtype).reshape(tensor.shape), binary[size:]


def _from_list(tensor: InputTensor) -> Array:
    flat, shape = tensor.data or [], tensor.shape
    if flat and isinstance(flat[0], list):  # nested: each level must have the size in the shape
        if len(flat) != shape[0]:
            raise RequestError(422, f"{tensor.name}: shape {shape} and {len(flat)} lists of data do not match")
        for size in shape[1:]:
            if not all(isinstance(each, list) and len(each) == size for each in flat):
                raise RequestError(422, f"{tensor.name}: expected data in lists of the shape {shape}")
            flat = list(itertools.chain.from_iterable(flat))
    if len(flat) != math.prod(shape):
        raise RequestError(422, f"{tensor.name}: shape {shape} has {math.prod(shape)} values, found {len(flat)}")
    # Types are compared exactly: True is an int, and no 1.
    types: tuple[type, ...] = (int, float) if tensor.datatype == "FP32" else (int,)
    if not set(map(type, flat)) <= set(types):
        raise RequestError(422, f"{tensor.name}: expected {' or '.join(each.__name__ for each in types)} values alone")
    try:
        # What does not fit a float becomes infinite, which is refused later.
        with np.errstate(over="ignore"):
            return np.array(flat, DTYPES[tensor.datatype]).reshape(shape)
    except OverflowError:
        raise RequestError(422, f"{tensor.name}: expected values that fit {tensor.datatype}") from None


def rows_of(tensors: Mapping[str, Array], spec: FeatureSpec, limits: Limits) -> list[VideoRow]:
    """Returns the videos, each copied once, from the body into its row."""
    missing = ", ".join(name for name in spec.sizes if name not in tensors)
    if missing:
        raise RequestError(422, f"inputs: this model needs {', '.join(spec.sizes)}; {missing} is missing")
    features = {name: tensors[name] for name in spec.sizes}
    first = next(iter(features.values()))
    num_axes, axes, also = 2, "videos, frames", ", the first two as in the other features"
    if spec.is_video_level:
        num_axes, axes, also = 1, "videos", ""
    for name, size in spec.sizes.items():
        shape = features[name].shape
        if len(shape) != num_axes + 1 or shape != (*first.shape[:num_axes], size):
            raise RequestError(422, f"{name}: expected [{axes}, {size}]{also}, found {list(shape)}")
    if not 1 <= len(first) <= limits.max_videos:
        raise RequestError(422, f"inputs: expected 1 to {limits.max_videos} videos a request, found {len(first)}")
    # A mean has no axis of frames: all of it is taken.
    lengths: Sequence[int | None] = [None] * len(first)
    if not spec.is_video_level:
        lengths = _lengths(tensors.get(_NUM_FRAMES), len(first), first.shape[1])
    rows = []
    with refusals():
        for index, length in enumerate(lengths):
            video = {name: values[index][:length] for name, values in features.items()}
            means, frames = (video, {}) if spec.is_video_level else ({}, video)
            rows.append(checked_row(means, frames, spec, f"inputs[{index}]"))
    return rows


def _lengths(given: Array | None, num_videos: int, num_frames: int) -> list[int]:
    if given is None:
        return [num_frames] * num_videos
    if given.shape not in ((num_videos,), (num_videos, 1)):
        raise RequestError(422, f"{_NUM_FRAMES}: expected the shape [{num_videos}], found {list(given.shape)}")
    lengths: list[int] = given.reshape(-1).tolist()
    if min(lengths) < 1 or max(lengths) > num_frames:
        raise RequestError(422, f"{_NUM_FRAMES}: expected 1 to {num_frames}, found {min(lengths)} to {max(lengths)}")
    return lengths

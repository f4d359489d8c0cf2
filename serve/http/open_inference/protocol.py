"""The Open Inference Protocol, version 2, without HTTP: bytes -> rows, answers -> bytes.

https://github.com/kserve/open-inference-protocol and, for binary data,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydantic
from pydantic import Field

from serve.errors import RequestError
from serve.http.open_inference.tensors import (
    BINARY_SIZE,
    DTYPES,
    InputTensor,
    Parameters,
    ProtocolPart,
    TensorMetadata,
    read_tensors,
    rows_of,
)
from serve.http.video_input import ModelInput, check_top_k, checked_json, parameter_top_k, validate_json
from serve.model.batching import Answer
from serve.settings import Limits
from yt8m_ray.data.format.features import FeatureSpec

CLASS_IDS, SCORES, NAMES = "class_ids", "scores", "names"
_OUTPUT_TYPES = {CLASS_IDS: "INT64", SCORES: "FP32", NAMES: "BYTES"}

# Parameters that would change what an answer means. Other unknown ones are ignored, as servers do.
_REFUSED = ("classification", "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")

_MAX_TENSORS = 16


class OutputRequest(ProtocolPart):
    name: str = Field(max_length=100)
    parameters: Parameters = Field(default_factory=dict, description="binary_data: whether it comes as bytes")


class InferenceRequest(ProtocolPart):
    """One tensor a feature, over all videos; `num_frames` where videos of a batch are padded to one length."""

    id: str | None = Field(default=None, max_length=200, description="Returned as it is")
    inputs: list[InputTensor] = Field(min_length=1, max_length=_MAX_TENSORS)
    outputs: list[OutputRequest] | None = Field(
        default=None, max_length=_MAX_TENSORS, description="None gives class_ids and scores"
    )
    parameters: Parameters = Field(default_factory=dict, description="top_k; binary_data_output")


class OutputTensor(TensorMetadata):
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class ServerMetadata(pydantic.BaseModel):
    name: str
    version: str
    extensions: list[str]


class ModelMetadata(pydantic.BaseModel):
    name: str
    versions: list[str] = Field(description="Current first; a canary's too")
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class InferenceResponse(pydantic.BaseModel):
    model_name: str
    model_version: str
    id: str
    outputs: list[OutputTensor]


@dataclass(frozen=True)
class Inference(ModelInput):
    """A request that can be answered."""

    id: str  # as given, or empty
    outputs: dict[str, bool]  # by name, whether it is sent as bytes


def output_metadata() -> list[TensorMetadata]:
    """Returns the tensors of an answer; `names` is one of them only if a request names it."""
    return [TensorMetadata(name=name, datatype=datatype, shape=[-1, -1]) for name, datatype in _OUTPUT_TYPES.items()]


def decode_inference(body: bytes, json_bytes: int | None, spec: FeatureSpec, limits: Limits) -> Inference:
    """Returns the input of a body; RequestError if it cannot be read or does not fit the model.

    `json_bytes` is the length of the JSON, behind which the binary data of the inputs follows without gaps; None stands
    for all of the body.
    """
    end = len(body) if json_bytes is None else json_bytes
    if end > len(body):
        raise RequestError(400, f"inference-header-content-length: {end} is beyond the body of {len(body)} bytes")
    text = memoryview(body)[:end].tobytes() if end < len(body) else body
    request = validate_json(InferenceRequest, checked_json(text, spec, limits))
    _check_parameters(request)
    tensors = read_tensors(request.inputs, memoryview(body)[end:], spec)
    rows = rows_of(tensors, spec, limits)
    top_k = check_top_k(parameter_top_k(request.parameters), len(rows), spec, limits)
    return Inference(rows, top_k, request.id or "", _outputs(request))


def encode_inference(
    inference: Inference, answers: Sequence[Answer], head: Mapping[str, str], name_of: Callable[[int], str | None]
) -> tuple[dict[str, Any], list[bytes]]:
    """Returns the answer's JSON document, with the fields of `head` first, and the binary data that follows it."""
    outputs, parts = [], list[bytes]()
    for name, is_binary in inference.outputs.items():
        rows = (answer.scores if name == SCORES else answer.class_ids for answer in answers)
        flat: list[Any] = list(itertools.chain.from_iterable(rows))
        if name == NAMES:
            # BYTES has no null: a class without a name gets the empty string.
            flat = [name_of(class_id) or "" for class_id in flat]
        shape = [len(answers), inference.top_k]
        output: dict[str, Any] = {"name": name, "datatype": _OUTPUT_TYPES[name], "shape": shape}
        if is_binary:
            parts.append(_to_bytes(name, flat))
            output["parameters"] = {BINARY_SIZE: len(parts[-1])}
        else:
            output["data"] = flat
        outputs.append(output)
    return {**head, "outputs": outputs}, parts


def _to_bytes(name: str, flat: Sequence[Any]) -> bytes:
    if name != NAMES:
        return np.array(flat, DTYPES[_OUTPUT_TYPES[name]]).tobytes()
    # The protocol's BYTES: each text after its length as four little-endian bytes.
    encoded = [text.encode() for text in flat]
    return b"".join(part for text in encoded for part in (len(text).to_bytes(4, "little"), text))


def _check_parameters(request: InferenceRequest) -> None:
    parts = [(part.name, part.parameters) for part in request.inputs]
    parts += [(part.name, part.parameters) for part in request.outputs or ()]
    for tensor, parameters in parts:
        for name in _REFUSED:
            if name in parameters:
                raise RequestError(422, f"{tensor[:60]}: {name} is not offered here")


def _outputs(request: InferenceRequest) -> dict[str, bool]:
    is_binary: Any = request.parameters.get("binary_data_output", False)
    outputs: dict[str, Any] = {}
    for output in request.outputs or ():
        if output.name not in _OUTPUT_TYPES or output.name in outputs:
            valid = f"no output; valid: {', '.join(_OUTPUT_TYPES)}"
            problem = "is asked for twice" if output.name in outputs else valid
            raise RequestError(422, f"outputs: {output.name[:60]!r}: {problem}")
        outputs[output.name] = output.parameters.get("binary_data", is_binary)
    outputs = outputs or {CLASS_IDS: is_binary, SCORES: is_binary}
    if any(type(flag) is not bool for flag in outputs.values()):
        raise RequestError(422, "parameters: expected true or false for binary_data and binary_data_output")
    return outputs

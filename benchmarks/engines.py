"""What multiplies by 8-bit weights on a CPU: the candidates side by side, on one core with one thread.

    python benchmarks/engines.py [--batches 1,4,16,32,64] [--rounds 2] [--shapes hidden,assignment,moe2,moe4]

The shapes are those of a NetVLAD of 256 clusters and 1,024 hidden units on 300 frames, and of the mixtures of two and
four experts. Every engine is given float32 activations and returns float32, so that the quantization of activations
counts. Weights and activations are Gaussian. An engine runs in a process of its own for each shape. Times are of the
CPU, the least of several calls, so that waiting for other processes does not count; `error` is relative to float32 in
the Frobenius norm, `prepare` the time from float32 weights to the first answer, `peak` what that adds to the process's.
ONNX Runtime (with `onnx`) and OpenVINO are measured where they can be imported; they are no dependency of ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # as jobs and serve/config.yaml do, for all engines

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from benchmarks.measure import Figures, best, cores, run_pinned
from yt8m_ray.inference.quantization.int8_linear import Int8Linear

SHAPES = {
    "hidden": (1, 256 * 1152, 1024),
    "assignment": (300, 1024, 256),
    "moe2": (1, 1024, 11586),
    "moe4": (1, 1152, 19310),
}
"""Rows a clip, inputs and outputs."""

Engine = Callable[[torch.Tensor], torch.Tensor]


def make_float32(weights: torch.Tensor) -> Engine:
    return lambda inputs: F.linear(inputs, weights)


def make_bfloat16(weights: torch.Tensor) -> Engine:
    halves = weights.bfloat16()
    return lambda inputs: F.linear(inputs.bfloat16(), halves).float()


def quantized(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns int8 codes and the scale of each output, float32 [out, 1]; in parts, so that the peak is not of this."""
    scale = weights.abs().amax(1, keepdim=True) / 127
    codes = torch.cat([(part / step).round().to(torch.int8) for part, step in zip(weights, scale, strict=True)])
    return codes.view_as(weights), scale


def make_fbgemm(weights: torch.Tensor) -> Engine:
    """Torch's dynamic quantization by FBGEMM: one scale a batch."""
    codes, scale = quantized(weights)
    zeros = torch.zeros(len(codes), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch announces the end of its quantized tensors
        tensor = torch._make_per_channel_quantized_tensor(codes, scale.view(-1).double(), zeros, 0)
        packed = torch.ops.quantized.linear_prepack(tensor, None)
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32

    def engine(inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = multiply(inputs, float(inputs.abs().max()) / 63, 64, packed)
        return outputs

    return engine


def make_onednn(weights: torch.Tensor) -> Engine:
    """Ours: oneDNN through torch, with a scale a row."""
    return Int8Linear(*quantized(weights), None, kernel="onednn")


def make_onnxruntime(weights: torch.Tensor) -> Engine:
    """MatMulInteger on activations that DynamicQuantizeLinear made codes of: a scale a batch, and one an output."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    codes, scale = quantized(weights)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["inputs"], ["codes", "step", "middle"]),
        helper.make_node("MatMulInteger", ["codes", "weights", "middle"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["step", "scale"], ["steps"]),
        helper.make_node("Mul", ["floats", "steps"], ["outputs"]),
    ]
    constants = {"weights": codes.t().contiguous(), "scale": scale.view(-1)}
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["rows", weights.shape[1]])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["rows", len(weights)])],
        [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx.ModelProto.SerializeToString(model), options)
    return lambda inputs: torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])


def make_openvino(weights: torch.Tensor) -> Engine:
    """Weights of 8 bits with a scale an output; the plugin makes codes of activations, in groups of 128 values."""
    import numpy as np
    import openvino
    from openvino import opset13

    codes, scale = quantized(weights)
    inputs = opset13.parameter([-1, weights.shape[1]], np.float32)
    floats = opset13.convert(opset13.constant(codes.numpy()), np.float32)
    product = opset13.matmul(inputs, opset13.multiply(floats, opset13.constant(scale.numpy())), False, True)
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "DYNAMIC_QUANTIZATION_GROUP_SIZE": 128}
    settings["INFERENCE_PRECISION_HINT"] = "f32"  # else it takes bfloat16 where the CPU has it
    request = openvino.Core().compile_model(openvino.Model([product], [inputs]), "CPU", settings).create_infer_request()

    def engine(inputs: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(request.infer([inputs.numpy()], share_inputs=True, share_outputs=True)[0])

    return engine


ENGINES = {
    "float32": make_float32,
    "bfloat16": make_bfloat16,
    "fbgemm": make_fbgemm,
    "onednn": make_onednn,
    "onnxruntime": make_onnxruntime,
    "openvino": make_openvino,
}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds(engine: Engine, inputs: torch.Tensor, *, at_least_s: float = 0.3) -> float:
    """Returns the least CPU seconds of a call, tried for a while."""
    found: list[float] = []
    while len(found) < 3 or sum(found) < at_least_s:
        started = time.process_time()
        engine(inputs)
        found.append(time.process_time() - started)
    return min(found)


def measure(name: str, shape: str, batches: list[int]) -> Figures:
    """The measured process: returns milliseconds a batch, the error, and what the weights cost."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, num_inputs, num_outputs = SHAPES[shape]
    weights = torch.randn(num_outputs, num_inputs)
    inputs = {batch: torch.randn(batch * rows, num_inputs) for batch in batches}
    with torch.inference_mode():
        expected = F.linear(inputs[batches[0]], weights)
        before, started = peak_mb(), time.process_time()
        engine = ENGINES[name](weights)
        found = engine(inputs[batches[0]])
        figures = {"prepare_s": time.process_time() - started, "peak_mb": peak_mb() - before}
        figures["error"] = float((found - expected).norm() / expected.norm())
        return figures | {f"ms_{batch}": seconds(engine, inputs[batch]) * 1e3 for batch in batches}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="1,4,16,32,64")
    parser.add_argument("--rounds", type=int, default=2, help="of all engines in turn; the least of each figure counts")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--one", nargs=2, metavar=("ENGINE", "SHAPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    batches = [int(batch) for batch in options.batches.split(",")]
    if options.one:
        print(json.dumps(measure(*options.one, batches)))
        return
    engines = [name for name in ENGINES if name not in ("onnxruntime", "openvino") or importlib.util.find_spec(name)]
    print(f"{'shape':10} {'engine':11} {' '.join(f'ms at {batch:3}' for batch in batches)}   error prepare s peak MB")
    for shape in options.shapes.split(","):
        rounds: dict[str, list[Any]] = {name: [] for name in engines}
        for name in engines * options.rounds:
            command = [sys.executable, __file__, "--batches", options.batches, "--one", name, shape]
            rounds[name].append(run_pinned(command, cores=cores()[:1]))
        for name, figures in ((name, best(found)) for name, found in rounds.items()):
            times = " ".join(f"{figures[f'ms_{batch}']:9.2f}" for batch in batches)
            costs = f"{figures['error']:7.4f} {figures['prepare_s']:9.2f} {figures['peak_mb']:7.0f}"
            print(f"{shape:10} {name:11} {times} {costs}", flush=True)


if __name__ == "__main__":
    main()

"""The ensemble of integers against the same ensemble in float32, on one core.

    python benchmarks/quantized.py speed [--clusters 256] [--batches 1,4,32] [--rounds 5]
    python benchmarks/quantized.py memory [--clusters 256]
    python benchmarks/quantized.py sizes

`speed` alternates rounds of the peer, the trained models in float32 by torch, and of what a bundle loads from its int8
weights: a gated NetVLAD of 1,024 hidden units with a mixture of two experts, and a mixture of four on the means, 300
frames a clip, random weights. `memory` is the peak of a process that loads either from its file and answers once, and
`sizes` stores the nine models of the 2018 winner's entry, random weights, with its uniform codebooks.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as jobs and serve/config.yaml do, for both sides

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from benchmarks.measure import best, cores, run_pinned
from tests.unit.models.test_parameter_counts import PUBLISHED, UINT8_MEGABYTES
from yt8m_ray.config.quantization import TransformConfig
from yt8m_ray.inference.quantization.quantize import channel_axes, quantize_state
from yt8m_ray.inference.quantization.restore import restore_model
from yt8m_ray.models import build_model, build_model_for_weights
from yt8m_ray.models.ensemble import Ensemble

SIZES: dict[str, Any] = {"feature_sizes": [1024, 128], "num_classes": 3862}
NUM_FRAMES = 300
WEIGHTS = [0.7, 0.3]


def member_configs(num_clusters: int) -> list[dict[str, Any]]:
    head = {"name": "moe", "num_mixtures": 2, "prob_gating": "prob"}
    return [
        {"name": "netvlad", "num_clusters": num_clusters, "hidden_dim": 1024, "head": head},
        {"name": "moe", "num_mixtures": 4},
    ]


def load(kind: str, folder: Path, configs: list[dict[str, Any]]) -> Ensemble:
    members = []
    for index, config in enumerate(configs):
        state = load_file(folder / f"{kind}{index}.safetensors")
        # Without codes all layers are those of torch.
        members.append(restore_model(build_model_for_weights(config, **SIZES), state))
    return Ensemble(members, WEIGHTS).eval()


def save(folder: Path, configs: list[dict[str, Any]]) -> dict[str, int]:
    """Writes both forms of the members and returns their bytes."""
    for index, config in enumerate(configs):
        torch.manual_seed(index)
        model = build_model(config, **SIZES)
        save_file(model.state_dict(), folder / f"float32{index}.safetensors")
        save_file(quantize_state(model.state_dict(), channel_axes(model)), folder / f"int8{index}.safetensors")
    return {kind: sum(path.stat().st_size for path in folder.glob(f"{kind}*")) for kind in ("float32", "int8")}


def clips(batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch_size, NUM_FRAMES, 1152), torch.full((batch_size,), NUM_FRAMES)


def seconds(call: Callable[..., object], *arguments: object, at_least_s: float = 0.5) -> float:
    """Returns the least seconds of a call, tried for a while."""
    found, end = [], time.perf_counter() + at_least_s
    while not found or time.perf_counter() < end:
        started = time.perf_counter()
        call(*arguments)
        found.append(time.perf_counter() - started)
    return min(found)


def speed(folder: Path, configs: list[dict[str, Any]], batches: list[int], rounds: int) -> None:
    ensembles = {kind: load(kind, folder, configs) for kind in ("float32", "int8")}
    print(f"{'batch':>5} {'float32 ms':>11} {'int8 ms':>9} {'x':>6}   largest difference of a probability")
    with torch.inference_mode():
        for batch_size in batches:
            inputs = clips(batch_size)
            answers = [torch.sigmoid(model(*inputs)) for model in ensembles.values()]
            found = best([{kind: seconds(model, *inputs) for kind, model in ensembles.items()} for _ in range(rounds)])
            ratio = found["float32"] / found["int8"]
            times = f"{found['float32'] * 1e3:11.1f} {found['int8'] * 1e3:9.1f} {ratio:6.2f}"
            print(f"{batch_size:5} {times}   {float((answers[0] - answers[1]).abs().max()):.4f}", flush=True)


def measure_memory(kind: str, folder: Path, configs: list[dict[str, Any]]) -> None:
    """Prints what loading and answering once add to the peak of this process, in bytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    with torch.inference_mode():
        load(kind, folder, configs)(*clips(1))
    elapsed = time.perf_counter() - started
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(json.dumps({"bytes": added, "seconds": elapsed}))


def sizes() -> None:
    total = 0
    for name, published in UINT8_MEGABYTES.items():
        count = 2 if name == "RNN1 and RNN2" else 1
        model = build_model(PUBLISHED[name][0], **SIZES)
        stored = quantize_state(model.state_dict(), channel_axes(model), TransformConfig(name="uniform"))
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
        total += count * num_bytes
        print(f"{name:<14} {num_bytes / 1e6:8.1f} MB, published {published:6.1f}", flush=True)
    print(f"{'all nine':<14} {total / 1e6:8.1f} MB, published 1117.6")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("speed", "memory", "sizes", "float32", "int8"))
    parser.add_argument("--clusters", type=int, default=256)
    parser.add_argument("--batches", default="1,2,4,8,16,32,64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    configs = member_configs(options.clusters)
    if options.what == "sizes":
        sizes()
    elif options.what in ("float32", "int8"):
        measure_memory(options.what, options.folder, configs)
    else:
        os.sched_setaffinity(0, cores()[:1])
        with tempfile.TemporaryDirectory() as name:
            stored = save(Path(name), configs)
            print(f"stored: {stored['int8'] / 1e6:.1f} of {stored['float32'] / 1e6:.1f} MB", flush=True)
            if options.what == "speed":
                speed(Path(name), configs, list(map(int, options.batches.split(","))), options.rounds)
            else:
                command = [sys.executable, __file__, "--clusters", str(options.clusters), "--folder", name]
                for kind in ("float32", "int8"):
                    found = run_pinned([*command, kind], cores=cores()[:1])
                    print(f"{kind}: peak + {found['bytes'] / 1e6:.0f} MB, first answer after {found['seconds']:.2f} s")


if __name__ == "__main__":
    main()

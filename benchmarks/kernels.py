"""Where a step's time goes on a GPU: its kernels by kind, and the time in which none runs."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch.profiler import ProfilerActivity, profile

NUM_PRINTED = 25
OTHER = "element by element"

# The first pattern that a kernel's name fits decides.
KINDS = {
    "optimizer": re.compile(r"adam|sgd|lerp", re.I),
    "clipping": re.compile(r"lpnorm|multi_tensor|foreach", re.I),
    "copies from the host": re.compile(r"memcpy htod", re.I),
    "copies to the host": re.compile(r"memcpy dtoh", re.I),
    "copies and fills on the device": re.compile(r"memcpy|memset|CatArray", re.I),
    "matrix products": re.compile(r"gemm|nvjet|cutlass|xmma|wgmma|cublas|splitK", re.I),
    "recurrent cells": re.compile(r"rnn|lstm|gru", re.I),
    "indexing": re.compile(r"index|gather|scatter|sort|Sort|scan", re.I),
    "compiled": re.compile(r"triton", re.I),
    "reductions": re.compile(r"reduce|softmax|norm", re.I),
}


def breakdown(step: Callable[[], object], *, num_steps: int, device: torch.device) -> dict[str, float]:
    """Returns milliseconds a step by kind of kernel, and `busy` (any of them runs); empty on a CPU.

    The profiler slows the host, not the kernels: how long none runs is what an unprofiled step takes beyond `busy`.
    """
    if device.type != "cuda":
        for _ in range(num_steps):
            step()
        return {}
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        for _ in range(num_steps):
            step()
        torch.cuda.synchronize(device)
    spans: list[tuple[float, float]] = []
    totals: dict[str, float] = defaultdict(float)
    names: dict[str, float] = defaultdict(float)
    for event in trace.events() or ():
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation:
            spans.append((event.time_range.start, event.time_range.end))
            totals[kind_of(event.name)] += event.time_range.elapsed_us()
            names[event.name] += event.time_range.elapsed_us()
    parts = {kind: totals[kind] / num_steps / 1e3 for kind in [*KINDS, OTHER] if totals[kind]}
    for name, us in sorted(names.items(), key=lambda item: -item[1])[:NUM_PRINTED]:
        print(f"{us / num_steps / 1e3:8.3f} ms  {kind_of(name):30s} {name[:200]}", file=sys.stderr)
    return {**parts, "busy": covered(spans) / num_steps / 1e3}


def kind_of(name: str) -> str:
    """Returns the kind of a kernel or copy."""
    return next((kind for kind, pattern in KINDS.items() if pattern.search(name)), OTHER)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Returns the length of what the spans cover together."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total

"""A trace of some steps, for Perfetto (ui.perfetto.dev) or chrome://tracing."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

logger = logging.getLogger(__name__)

TRACE_FILE = "trace.json.gz"
# The first steps compile, allocate and fill caches.
NUM_SKIPPED = 10
NUM_TRACED = 5


def traced(steps: Iterator[int], path: Path, device: torch.device) -> Iterator[int]:
    """Passes steps on, and writes a trace of steps 11 to 15, as far as there are any, to `path`, which ends in .gz."""
    # Its name ends in .gz too, which makes torch compress it.
    aside = path.with_name(f"aside.{path.name}")

    def save(profiler: profile) -> None:
        if num_steps <= NUM_SKIPPED:
            return
        profiler.export_chrome_trace(str(aside))
        os.replace(aside, path)
        logger.info("a trace of %d steps or less is in %s", NUM_TRACED, path)

    # One step of warm-up: the first one that a profiler sees takes longer.
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    plan = schedule(wait=NUM_SKIPPED - 1, warmup=1, active=NUM_TRACED, repeat=1)
    num_steps = 0
    with profile(activities=activities, schedule=plan, on_trace_ready=save) as profiler:
        for step in steps:
            yield step
            num_steps += 1
            profiler.step()
    if num_steps <= NUM_SKIPPED:
        logger.warning("train.profile: %d steps are too few, a trace begins after %d", num_steps, NUM_SKIPPED)

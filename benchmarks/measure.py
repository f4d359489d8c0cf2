"""What the benchmarks share: processes pinned to cores, and the best of several rounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

Figures = dict[str, float]


def run_pinned(command: Sequence[str], *, cores: Sequence[int]) -> Figures:
    """Returns the JSON object that a command prints as its last line, run on the given cores alone."""
    environment = {**os.environ, **_ONE_THREAD, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        command,
        env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{process.stderr[-2000:]}")
    figures: Figures = json.loads(process.stdout.strip().splitlines()[-1])
    return figures


def best(rounds: Sequence[Figures]) -> Figures:
    """Returns the least of each figure: what the machine's other work has disturbed least."""
    return {name: min(found[name] for found in rounds) for name in rounds[0]}


def cores() -> list[int]:
    """Returns the cores that this process may use, the last first: the first serves most interrupts."""
    return sorted(os.sched_getaffinity(0), reverse=True)

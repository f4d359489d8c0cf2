from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from yt8m_ray.training.steps.profiling import NUM_SKIPPED, NUM_TRACED, TRACE_FILE, traced


def steps(number: int) -> Iterator[int]:
    for step in range(number):
        with torch.profiler.record_function(f"step {step}"):
            torch.ones(8, 8) @ torch.ones(8, 8)
        yield step


def test_a_trace_holds_the_steps_after_the_warm_up(tmp_path: Path) -> None:
    path = tmp_path / TRACE_FILE

    passed_on = list(traced(steps(NUM_SKIPPED + NUM_TRACED + 3), path, torch.device("cpu")))

    names = {event["name"] for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]}
    assert passed_on == list(range(NUM_SKIPPED + NUM_TRACED + 3))
    expected = {f"step {step}" for step in range(NUM_SKIPPED, NUM_SKIPPED + NUM_TRACED)}
    assert {name for name in names if name.startswith("step ")} == expected
    assert "aten::mm" in names


def test_too_few_steps_leave_no_trace_and_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    list(traced(steps(NUM_SKIPPED), tmp_path / TRACE_FILE, torch.device("cpu")))

    assert list(tmp_path.iterdir()) == []
    assert "train.profile: 10 steps are too few" in caplog.text

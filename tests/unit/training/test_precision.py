"""The precision of a device: what it has takes the place of what it only imitates."""

from __future__ import annotations

import logging

import pytest
import torch

from yt8m_ray.training.steps.distributed import runs_in_bfloat16

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_float32_is_float32_everywhere() -> None:
    assert not runs_in_bfloat16("float32", CPU)
    assert not runs_in_bfloat16("float32", GPU)


def test_a_gpu_computes_in_bfloat16() -> None:
    assert runs_in_bfloat16("bfloat16", GPU)


@pytest.mark.parametrize("has_instructions", [True, False])
def test_a_cpu_without_instructions_for_bfloat16_takes_float32_and_says_so(
    has_instructions: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_instructions)

    with caplog.at_level(logging.WARNING):
        answer = runs_in_bfloat16("bfloat16", CPU)

    assert answer is has_instructions
    assert ("no instructions for bfloat16" in caplog.text) is not has_instructions

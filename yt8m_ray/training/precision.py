"""What a device computes in: the precision that is asked for, or the one that it has."""

from __future__ import annotations

import logging

import torch

from yt8m_ray.config.train import Precision
from yt8m_ray.training.workers import rank

logger = logging.getLogger(__name__)


def runs_in_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Returns whether the forward pass is to run under autocast to bfloat16; says so where float32 takes its place.

    Without instructions for it, oneDNN leaves bfloat16 to loops in which a step took 25 times as long as in float32 (a
    mixture on a CPU with AVX2 alone), to a result that is no better.
    """
    if precision == "float32":
        return False
    if device.type != "cpu":
        return True
    if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return True
    if rank() == 0:
        logger.warning("train.precision: this CPU has no instructions for bfloat16; it computes in float32, as exactly")
    return False

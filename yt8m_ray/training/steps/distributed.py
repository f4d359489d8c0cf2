"""Sums, gathered and merged values over the workers of a run; one worker alone has its own."""

from __future__ import annotations

import logging
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed

from yt8m_ray.config.train import Precision

logger = logging.getLogger(__name__)


class _Mergeable(Protocol):
    def merge(self, other: Any) -> None: ...


T = TypeVar("T")
M = TypeVar("M", bound=_Mergeable)


def world_size() -> int:
    """Returns the number of workers, 1 without a process group."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def rank() -> int:
    """Returns this worker's number from 0; rank 0 writes checkpoints and logs."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def sum_over_workers(values: list[float], device: torch.device) -> list[float]:
    """Returns the element-wise sum of every worker's values."""
    if world_size() == 1:
        return values
    # float64 counts videos exactly up to 2^53.
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(tensor)
    totals: list[float] = tensor.tolist()
    return totals


def gather(value: T) -> list[T]:
    """Returns every worker's value, by rank, on every worker."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def merge_over_workers(value: M, empty: M) -> M:
    """Merges every worker's value into `empty`, and returns that on every worker."""
    for one in gather(value):
        empty.merge(one)
    return empty


def share_buffers(model: torch.nn.Module) -> None:
    """Gives every worker rank 0's statistics; collective."""
    # They differ where batch norm is not synchronised: each worker has those of its own videos.
    if world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def from_rank_0(value: T) -> T:
    """Returns rank 0's value on every worker; also a barrier."""
    if world_size() == 1:
        return value
    # Only rank 0's entry is sent; the others are replaced.
    values: list[Any] = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    received: T = values[0]
    return received


def runs_in_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Returns whether the forward pass runs under autocast to bfloat16; logs where float32 takes its place."""
    if precision == "float32":
        return False
    if device.type != "cpu":
        return True
    # Without instructions for it, oneDNN leaves bfloat16 to plain loops: a step of a mixture took 25 times as long as
    # in float32 on a CPU with AVX2 alone, to a result that is no better.
    if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return True
    if rank() == 0:
        logger.warning("train.precision: this CPU has no instructions for bfloat16; it computes in float32, as exactly")
    return False

"""Peak memory of NetVLAD and NeXtVLAD beside the same layers written by broadcasting, forward and backward.

    python benchmarks/model_memory.py [--batch-size N] [--num-frames N] [--json]

The broadcast forms hold [B, T, K, D] and [B, T, G, K, d], as their formulas read. Each layer runs in a process of its
own, and what counts is that process's peak above what it held before the first step; all hold the same weights and
give the same answer, which is checked.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

import torch

from benchmarks.measure import Figures, cores, run_pinned
from yt8m_ray.components.aggregation import NetVLADConfig
from yt8m_ray.models.layers import BatchNorm, l2_normalize
from yt8m_ray.models.netvlad import NetVLAD
from yt8m_ray.models.nextvlad import NeXtVLAD

FEATURE_DIM = 1024
MB = 2**20


def broadcast_netvlad(layer: NetVLAD, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Returns what `layer` does, with every frame's difference to every centre at once."""
    assert layer.centers is not None
    assignment_BTK = layer.assignment(frames, mask)
    residuals_BTKD = frames.unsqueeze(2) - layer.centers.T
    vlad_BKD = (assignment_BTK.unsqueeze(3) * residuals_BTKD).sum(dim=1)
    return l2_normalize(l2_normalize(vlad_BKD.transpose(1, 2), dim=1).flatten(1), dim=1)


def broadcast_nextvlad(layer: NeXtVLAD, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Returns what `layer` does, with every group's difference to every centre at once."""
    assert layer.cluster_bn is not None
    group_dim, num_clusters = layer.centers.shape
    wide_BTW = layer.widen(frames)
    attention_BTG = torch.sigmoid(layer.attention(wide_BTW)) * mask.unsqueeze(2)
    logits_BTGK = layer.cluster_bn(layer.cluster_weights(wide_BTW), mask).unflatten(2, (-1, num_clusters))
    assignment_BTGK = torch.softmax(logits_BTGK, dim=3) * attention_BTG.unsqueeze(3)
    residuals_BTGKd = wide_BTW.unflatten(2, (-1, group_dim)).unsqueeze(3) - layer.centers.T
    vlad_BKd = (assignment_BTGK.unsqueeze(4) * residuals_BTGKd).sum(dim=(1, 2))
    descriptors: torch.Tensor = layer.bn(l2_normalize(vlad_BKd.transpose(1, 2), dim=1).flatten(1))
    return descriptors


def build_layer(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if name == "netvlad":
        return NetVLAD(FEATURE_DIM, 256, NetVLADConfig(), has_centers=True)
    return NeXtVLAD(
        FEATURE_DIM,
        num_clusters=128,
        groups=8,
        expansion=2,
        cluster_normalization="batch_norm",
        batch_norm=functools.partial(BatchNorm, unbiased_moving_variance=False),
    )


def measure(name: str, form: str, batch_size: int, num_frames: int) -> Figures:
    layer = build_layer(name)
    broadcast = {"netvlad": broadcast_netvlad, "nextvlad": broadcast_nextvlad}[name]
    forward = layer if form == "ours" else functools.partial(broadcast, layer)
    frames = torch.randn(batch_size, num_frames, FEATURE_DIM)
    lengths = torch.linspace(1, num_frames, batch_size).long()
    mask = torch.arange(num_frames) < lengths.unsqueeze(1)
    forward(frames[:, :1], mask[:, :1]).sum().backward()  # loads what torch loads on first use
    layer.zero_grad(set_to_none=True)
    held = _reset_peak_bytes()
    descriptors = forward(frames, mask)
    descriptors.square().mean().backward()
    # Weights by position: batch norm makes the plain sum 0 whatever was computed.
    weights = torch.randn(descriptors.shape, generator=torch.Generator().manual_seed(0))
    checksum = float((descriptors.detach() * weights).sum())
    return {"peak_mb": (_peak_bytes() - held) / MB, "checksum": checksum}


def _reset_peak_bytes() -> int:
    """Returns what this process holds, which is its peak from now on: that of its start is forgotten."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_bytes()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kB on Linux


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--num-frames", type=int, default=300)
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--measure", nargs=2, metavar=("LAYER", "FORM"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure, options.batch_size, options.num_frames)))
        return
    sizes = ["--batch-size", str(options.batch_size), "--num-frames", str(options.num_frames)]
    figures: Figures = {}
    for name in ("netvlad", "nextvlad"):
        ours, broadcast = (
            run_pinned([sys.executable, __file__, "--measure", name, form, *sizes], cores=cores()[:1])
            for form in ("ours", "broadcast")
        )
        if abs(ours["checksum"] - broadcast["checksum"]) > 1e-3 * max(abs(ours["checksum"]), 1):
            sys.exit(f"{name}: the two forms differ, {ours['checksum']} and {broadcast['checksum']}")
        figures |= {
            f"{name}_mb": ours["peak_mb"],
            f"{name}_broadcast_mb": broadcast["peak_mb"],
            f"{name}_ratio": broadcast["peak_mb"] / ours["peak_mb"],
        }
    for key, value in figures.items():
        print(f"{key:25s} {value:10.1f}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()

"""Training steps a second of the published models at their published sizes, beside what the accelerator can do.

    python benchmarks/accelerator.py [--models netvlad,nextvlad,lstm] [--seconds 3] [--options all] [--json]

Each model is that of `configs/train/NAME.yaml`, with its batch size, trained by the loop of `yt8m train` on packed
uint8 videos of 120 to 300 random frames that lie in (pinned) memory. Their delivery is left out: `train_loop.py`
measures it. `same_batch` takes one batch over and over. FLOP are 2 * 3 * `count_macs` of a clip of the mean length: two
a multiply-accumulate, and a backward pass of twice the forward pass; padding, and all that is no matrix product, counts
nothing. The peak is a product of two bfloat16 matrices of 8192 x 8192, measured in the same run, as the bandwidth is
by a copy. `--options` changes one key at a time; ratios are to the config as it is.

On a CPU, to see that it works: `--device cpu --seconds 0 --batch-size 2 --profile-steps 1 --models lstm`.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from benchmarks.kernels import breakdown
from yt8m_ray.config.document import load_document
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.losses import build_loss
from yt8m_ray.models import build_model
from yt8m_ray.models.cost import count_macs, num_parameters
from yt8m_ray.models.recurrent import keep_scans_uncompiled
from yt8m_ray.training.steps.loop import TrainingLoop
from yt8m_ray.training.steps.objective import Objective

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "train"
CLIP_FRAMES = (120, 300)
NUM_BATCHES = 4
NUM_LABELS = 3
NUM_WARM_UP_STEPS = 8
PEAK_DIM = 8192
COPY_BYTES = 1 << 32

OPTIONS: dict[str, list[str]] = {
    "float32": ["train.precision=float32"],
    "compiled": ["train.compile=true"],
    "optimizer.fused=false": ["optimizer.fused=false"],
    "train.transfer=float32": ["train.transfer=float32"],
    "global clipping": ["optimizer.clip=global"],
    "no clipping": ["optimizer.clip_gradient_norm=0"],
}
"""What is changed, one at a time; a batch four times as large comes besides."""


def random_videos(spec: FeatureSpec, num_videos: int, *, seed: int, device: torch.device) -> PackedVideos:
    """Returns videos of random lengths, frames and labels, whose frames a GPU can fetch by itself."""
    rng = np.random.default_rng(seed)
    num_frames = rng.integers(CLIP_FRAMES[0], CLIP_FRAMES[1] + 1, num_videos)
    is_gpu = device.type == "cuda"
    frames = torch.randint(0, 256, (int(num_frames.sum()), spec.dim), dtype=torch.uint8, device=device)
    kept = torch.empty(frames.shape, dtype=torch.uint8, pin_memory=is_gpu).copy_(frames)
    return PackedVideos(
        shards=np.zeros(num_videos, np.int32),
        records=np.arange(num_videos, dtype=np.int32),
        video_ids=np.array([str(number) for number in range(num_videos)], dtype=object),
        num_frames=num_frames,
        frames=kept.numpy(),
        num_labels=np.full(num_videos, NUM_LABELS),
        labels=rng.integers(0, spec.num_classes, NUM_LABELS * num_videos).astype(np.int32),
        is_labelled=np.ones(num_videos, bool),
    )


def again_and_again(batches: Sequence[PackedVideos], loop: TrainingLoop) -> Iterator[PackedVideos]:
    """Yields batches in turn under new names: the loop refuses a video that it has had."""
    for number, batch in enumerate(itertools.cycle(batches), loop.progress.step + 1):
        yield dataclasses.replace(batch, shards=np.full(len(batch), number), records=np.arange(len(batch)))


def loop_of(config: TrainConfig, device: torch.device) -> TrainingLoop:
    """Returns the loop of `yt8m train`; initial weights are drawn on the device, which is quicker there."""
    torch.manual_seed(0)
    with device:
        model = build_model(config.model, feature_sizes=config.data.feature_sizes, num_classes=config.data.num_classes)
        objective = Objective(model, build_loss(config.loss)).to(device)
    if config.train.compile:
        keep_scans_uncompiled()
        objective.compile()
    return TrainingLoop(objective, config, device=device)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_seconds(loop: TrainingLoop, batches: Sequence[PackedVideos], device: torch.device, seconds: float) -> float:
    """Returns the mean time of a step, behind some that warm up; at least two are measured."""
    steps = loop.steps(again_and_again(batches, loop))
    for _ in range(NUM_WARM_UP_STEPS if seconds else 1):
        next(steps)
    wait_for(device)
    started, num_steps = time.perf_counter(), 0
    while num_steps < 2 or time.perf_counter() - started < seconds:
        next(steps)
        num_steps += 1
    wait_for(device)
    return (time.perf_counter() - started) / num_steps


def repeated(run: Any, device: torch.device, count: int) -> float:
    """Returns the seconds of one call of `run`, behind a few."""
    for _ in range(min(3, count)):
        run()
    wait_for(device)
    started = time.perf_counter()
    for _ in range(count):
        run()
    wait_for(device)
    return (time.perf_counter() - started) / count


def ceilings(device: torch.device) -> dict[str, float]:
    """Returns the bfloat16 peak in TFLOP/s and the bandwidth of a copy in TB/s, bytes read and written."""
    is_gpu = device.type == "cuda"
    dim, size, count = (PEAK_DIM, COPY_BYTES, 20) if is_gpu else (1024, 1 << 26, 2)
    left, right = (torch.randn(dim, dim, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(left)
    product_s = repeated(lambda: torch.mm(left, right, out=product), device, count)
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_s = repeated(lambda: target.copy_(source), device, count)
    return {"peak_tflops": 2 * dim**3 / product_s / 1e12, "bandwidth_tb_per_s": 2 * size / copy_s / 1e12}


def config_of(name: str, overrides: Sequence[str]) -> TrainConfig:
    return load_document(str(CONFIGS / f"{name}.yaml"), TrainConfig, overrides)


def measure(name: str, options: argparse.Namespace, peaks: dict[str, float]) -> dict[str, Any]:
    """Returns the figures of a model, the last of them its options'."""
    device = torch.device(options.device)
    common = ["train.log_every_steps=1000000", *options.overrides]
    if options.batch_size:
        common.append(f"train.batch_size={options.batch_size}")
    config = config_of(name, common)
    batch_size = config.train.batch_size
    batches = [random_videos(config.data.spec, batch_size, seed=seed, device=device) for seed in range(NUM_BATCHES)]
    loop = loop_of(config, device)
    step_s = step_seconds(loop, batches, device, options.seconds)
    same_s = step_seconds(loop, batches[:1], device, options.seconds)
    mean_frames = float(np.mean([batch.num_frames.mean() for batch in batches]))
    flop = 2 * 3 * count_macs(loop.model, num_frames=round(mean_frames))
    parameters = num_parameters(loop.model)
    # Read by Adam: weights, gradients, two moments. Written: all of them but the gradients.
    adam_s = 7 * 4 * parameters / (peaks["bandwidth_tb_per_s"] * 1e12)
    parts = _parts_of_step(loop, batches, device, num_steps=options.profile_steps, step_ms=1e3 * step_s)
    found = {
        "model": name,
        "batch_size": batch_size,
        "precision": config.train.precision,
        "million_parameters": parameters / 1e6,
        "gflop_per_video": flop / 1e9,
        "step_ms": 1e3 * step_s,
        "videos_per_s": batch_size / step_s,
        "same_batch_videos_per_s": batch_size / same_s,
        "tflops": batch_size * flop / step_s / 1e12,
        "share_of_peak": batch_size * flop / step_s / 1e12 / peaks["peak_tflops"],
        "adam_gb_per_step": 7 * 4 * parameters / 1e9,
        "adam_ms_at_bandwidth": 1e3 * adam_s,
        "parts_ms": parts,
    }
    if device.type == "cuda":
        found["peak_memory_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    del loop
    found["options"] = {
        option: step_s / changed for option, changed in _options(name, common, batches, device, options).items()
    }
    if options.larger:
        found["options"][f"batch {options.larger} times as large, videos/s"] = step_s / _larger(config, device, options)
    return found


def _parts_of_step(
    loop: TrainingLoop, batches: Sequence[PackedVideos], device: torch.device, *, num_steps: int, step_ms: float
) -> dict[str, float]:
    """Returns the milliseconds of a step by kind of kernel, and those in which none runs."""
    steps = loop.steps(again_and_again(batches, loop))
    parts = breakdown(lambda: next(steps), num_steps=num_steps, device=device)
    return {**parts, "idle": max(step_ms - parts["busy"], 0.0)} if parts else {}


def _options(
    name: str, common: list[str], batches: list[PackedVideos], device: torch.device, options: argparse.Namespace
) -> dict[str, float]:
    chosen = list(OPTIONS) if options.options == "all" else [key for key in options.options.split(",") if key]
    times = {}
    for key in chosen:
        loop = loop_of(config_of(name, [*common, *OPTIONS[key]]), device)
        times[key] = step_seconds(loop, batches, device, options.seconds)
        print(f"{name}, {key}: {1e3 * times[key]:.2f} ms", file=sys.stderr, flush=True)
        del loop
    return times


def _larger(config: TrainConfig, device: torch.device, options: argparse.Namespace) -> float:
    """Returns the time that a larger batch takes for as many videos as one of the config's has."""
    size = config.train.batch_size * options.larger
    batches = [random_videos(config.data.spec, size, seed=seed, device=device) for seed in range(2)]
    return step_seconds(loop_of(config, device), batches, device, options.seconds) / options.larger


def to_markdown(found: Sequence[dict[str, Any]]) -> str:
    """Returns the figures as tables."""
    lines = [
        "| model | batch | GFLOP a video | step ms | videos/s | one batch, videos/s | TFLOP/s | share of the peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        lines.append(
            f"| {row['model']} ({row['million_parameters']:.0f} M) | {row['batch_size']} | {row['gflop_per_video']:.2f}"
            f" | {row['step_ms']:.2f} | {row['videos_per_s']:,.0f} | {row['same_batch_videos_per_s']:,.0f}"
            f" | {row['tflops']:.1f} | {row['share_of_peak']:.1%} |"
        )
    for title, key, text in (("part of a step, ms", "parts_ms", "{:.2f}"), ("videos/s, ratio", "options", "{:.2f}")):
        names = list(dict.fromkeys(name for row in found for name in row[key]))
        lines += [
            "",
            f"| {title} | " + " | ".join(row["model"] for row in found) + " |",
            "|---" * (len(found) + 1) + "|",
        ]
        for name in names:
            cells = [text.format(row[key][name]) if name in row[key] else "" for row in found]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to every config")
    parser.add_argument("--models", default="netvlad,nextvlad,lstm", help="names of configs, separated by commas")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--batch-size", type=int, help="instead of the configs' own")
    parser.add_argument("--options", default="", help=f"all, or some of: {', '.join(OPTIONS)}")
    parser.add_argument("--larger", type=int, default=0, help="also a batch so many times as large")
    parser.add_argument("--profile-steps", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()
    peaks = ceilings(torch.device(options.device))
    print(f"peak {peaks['peak_tflops']:.0f} TFLOP/s bfloat16, copy {peaks['bandwidth_tb_per_s']:.2f} TB/s", flush=True)
    found = []
    for name in options.models.split(","):
        found.append(measure(name, options, peaks))
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    print(to_markdown(found))
    if options.json:
        print(json.dumps({"torch": torch.__version__, **peaks, "models": found}))


if __name__ == "__main__":
    main()

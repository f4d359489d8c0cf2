"""Teachers that see all frames, students that see every k-th: GAP, multiply-accumulates and latency of each.

    python tests/benchmarks/fewer_frames.py [--models hierarchical_lstm] [--every 2,5,10,20,30] [--seeds 1]
        [--device cuda] [--alone] [--from-teacher] [--json FILE] [--plot FILE] [key=value ...]

The report of "Efficient Video Classification Using Fewer Frames" (arXiv:1902.10640) for H-LSTM, NetVLAD and NeXtVLAD at
small sizes. The teacher is trained on labels first; each student learns from labels and from it, as it is (serial), by
the `teacher` section of the config; `--alone` trains each on labels alone besides. Nothing is read: clips are those of
the planted world (`yt8m_ray.data.planted`), but slower. Every planted frame is a shot of some seconds, and each second
of it adds noise of its own: what a clip shows lasts long enough to be seen in every k-th frame, and more frames tell
more. Runs are `jobs.train`'s loop in one process, without Ray. Latency is that of one clip in eval mode, the median of
some passes, on one thread of a CPU that may be busy, or on the device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, its folder is what Python looks in

from yt8m_ray.config.document import override, parse_override
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.batch import batches_of, prefetch, to_batch
from yt8m_ray.data.features import VideoRow
from yt8m_ray.data.packed import PackedVideos
from yt8m_ray.data.planted import NOISE_STD, PlantedWorld
from yt8m_ray.evaluation import evaluate
from yt8m_ray.losses import build_loss
from yt8m_ray.models import Model, build_model
from yt8m_ray.models.cost import count_macs
from yt8m_ray.schema import DEQUANTIZATION_SCALE
from yt8m_ray.training.assembly import build_loop
from yt8m_ray.training.teaching import FrozenTeacher, Supplies

BLOCK = 64
EVALUATION_BATCH = 64
NUM_TIMED = 20
MOE = {"name": "moe", "num_mixtures": 2}
SMALL: dict[str, dict[str, Any]] = {
    "hierarchical_lstm": {"cell_dim": 256, "num_layers": 2, "head": MOE},
    "netvlad": {"num_clusters": 64, "hidden_dim": 128, "head": MOE},
    "nextvlad": {"num_clusters": 64, "groups": 4, "expansion": 1, "hidden_dim": 256, "dropout": 0.1},
}
LEARNING_RATES = {"hierarchical_lstm": 0.001, "netvlad": 0.002, "nextvlad": 0.002}
TEACHER_BLOCK, STUDENT_BLOCK = 15, 6  # frames; the paper's 20 blocks of 15 frames, and 5 of 6 where every 10th is read


@dataclass(frozen=True)
class Result:
    """One model of the report.

    Attributes:
        model: Its family.
        every: k; 1 is the teacher.
        gap: On the validation clips, a value a seed.
        gap_alone: The same of a student that learned from labels alone; empty where none was trained.
        num_macs: Multiply-accumulates of the longest clip.
        share: Of the teacher's.
        latency_ms: Of the longest clip.
    """

    model: str
    every: int
    gap: list[float]
    gap_alone: list[float]
    num_macs: int
    share: float
    latency_ms: float


def clips(options: argparse.Namespace, config: TrainConfig, num_videos: int, *, seed: tuple[int, int]) -> PackedVideos:
    """Returns clips of the slowed planted world; others for each seed."""
    world = PlantedWorld(options.num_classes, num_modes=1, world=0, signal=options.signal)
    random = np.random.default_rng(seed)
    packs, rows = [], []
    shortest, longest = (count // options.shot for count in (options.min_frames, options.max_frames))
    for number in range(num_videos):
        video = world.draw_clip(random, int(random.integers(shortest, longest + 1)))
        frames = np.repeat(video.features, options.shot, axis=0).astype(np.float32)
        noise = random.standard_normal(frames.shape, dtype=np.float32)
        frames += noise * np.float32(options.noise * NOISE_STD / DEQUANTIZATION_SCALE)
        stored = np.rint(np.clip(frames, 0, 255)).astype(np.uint8)
        rows.append(VideoRow(f"{seed[1]}_{number}", stored, video.class_ids.astype(np.int32)))
        if len(rows) == BLOCK or number == num_videos - 1:
            first = number + 1 - len(rows)
            packs.append(PackedVideos.from_rows(rows, config.data.spec, first_record=first))
            rows = []
    return PackedVideos.concatenate(packs)


def config_of(name: str, every: int, options: argparse.Namespace, *, seed: int) -> TrainConfig:
    """Returns the run of a teacher (`every` 1) or a student."""
    model = {"name": name, **SMALL[name]}
    if name == "hierarchical_lstm":
        num_read = -(-options.max_frames // every)
        length = TEACHER_BLOCK if every == 1 else STUDENT_BLOCK
        model |= {"every": every, "num_blocks": max(num_read // length, 1), "max_frames": options.max_frames}
    elif every > 1:
        model["sampling"] = {"name": "uniform", "every": every}
    is_gpu = options.device.startswith("cuda")
    document = {
        "run": {"name": f"{name}-{every}", "seed": seed},
        "data": {"features": {"rgb": 1024, "audio": 128}, "num_classes": options.num_classes},
        "model": model,
        "optimizer": {"learning_rate": LEARNING_RATES[name], "schedule": "cosine"},
        "train": {
            "batch_size": 64,
            "num_epochs": options.num_epochs,
            "precision": "bfloat16" if is_gpu else "float32",
        },
    }
    return override(TrainConfig.model_validate(document), dict(map(parse_override, options.overrides)))


def train(
    config: TrainConfig,
    videos: PackedVideos,
    *,
    device: torch.device,
    teacher: Model | None = None,
    start: Model | None = None,
) -> Model:
    """Returns what a run ends with; with a teacher, a student of it. It begins with the weights of `start`, or anew."""
    frozen = None if teacher is None else FrozenTeacher(teacher, config.data.normalize)
    supplies = Supplies(frozen_teacher=frozen)
    loop, _ = build_loop(config, device=device, num_videos=len(videos), supplies=supplies)
    if start is not None:
        loop.model.load_state_dict(start.state_dict())
    for epoch in range(config.train.num_epochs):
        for _ in loop.steps(_shuffled(videos, config, epoch, pin_memory=device.type == "cuda")):
            pass
        loop.progress.position.start_epoch(epoch + 1)
    model = loop.evaluated_model
    assert isinstance(model, Model)
    return model.eval().requires_grad_(False)


def _shuffled(videos: PackedVideos, config: TrainConfig, epoch: int, *, pin_memory: bool) -> Iterator[PackedVideos]:
    seed, size = (config.run.seed, epoch), config.train.batch_size
    batches = batches_of([videos], batch_size=size, shuffle_window=len(videos), seed=seed, pin_memory=pin_memory)
    return prefetch(batches, depth=2)


def gap_of(model: Model, videos: PackedVideos, config: TrainConfig, device: torch.device) -> float:
    """Returns a model's GAP."""
    batches = (
        to_batch(part, spec=config.data.spec, normalize=config.data.normalize, device=device)
        for part in batches_of([videos], batch_size=EVALUATION_BATCH)
    )
    return evaluate(model, batches, build_loss(config.loss).to(device)).compute()["gap"]


@torch.inference_mode()
def latency_ms(model: Model, num_frames: int, device: torch.device) -> float:
    """Returns the median time of a pass over one clip."""
    frames = torch.randn(1, num_frames, model.frame_dim, device=device)
    lengths = torch.tensor([num_frames], device=device)
    num_threads, times = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for _ in range(NUM_TIMED + 3):
        started = time.perf_counter()
        model(frames, lengths)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - started))
    torch.set_num_threads(num_threads)
    return statistics.median(times[3:])


def macs_of(config: TrainConfig, num_frames: int) -> int:
    """Returns the multiply-accumulates of one clip of so many frames."""
    with torch.device("meta"):
        model = build_model(config.model, feature_sizes=config.data.feature_sizes, num_classes=config.data.num_classes)
    return count_macs(model, num_frames=num_frames)


def report(name: str, options: argparse.Namespace) -> list[Result]:
    """Trains a family's teacher and students, and returns the teacher and each student, printing lines meanwhile."""
    device, longest = torch.device(options.device), options.max_frames
    gaps: dict[int, list[float]] = {every: [] for every in (1, *options.every)}
    alone: dict[int, list[float]] = {every: [] for every in gaps}
    macs = {every: macs_of(config_of(name, every, options, seed=0), longest) for every in gaps}
    latencies: dict[int, float] = {}
    for seed in range(options.seeds):
        teacher_config = config_of(name, 1, options, seed=seed)
        videos = clips(options, teacher_config, options.num_videos, seed=(seed, 0))
        validation = clips(options, teacher_config, options.num_validation, seed=(seed, 1))
        teacher = train(teacher_config, videos, device=device)
        for every in gaps:
            config, started = config_of(name, every, options, seed=seed), time.perf_counter()
            start = teacher if options.from_teacher else None  # sampling has no weights: they are of one shape
            model = teacher
            if every > 1:
                model = train(config, videos, device=device, teacher=teacher, start=start)
            gaps[every].append(gap_of(model, validation, config, device))
            if options.alone and every > 1:
                alone[every].append(gap_of(train(config, videos, device=device), validation, config, device))
            latencies[every] = latency_ms(model, longest, device)
            seconds = time.perf_counter() - started
            print(f"{name} k={every} seed {seed}: GAP {gaps[every][-1]:.4f}, {seconds:.0f} s", file=sys.stderr)
    return [
        Result(name, every, gaps[every], alone[every], macs[every], macs[every] / macs[1], latencies[every])
        for every in gaps
    ]


def row_of(result: Result, teacher: Result) -> str:
    """Returns a line of the table."""
    gap, of_teacher = statistics.fmean(result.gap), statistics.fmean(teacher.gap)
    alone = f"{statistics.fmean(result.gap_alone):.4f}" if result.gap_alone else ""
    who = "teacher" if result is teacher else f"student, k = {result.every}"
    return (
        f"| `{result.model}` | {who} | {gap:.4f} | {gap - of_teacher:+.4f} | {alone} | {result.num_macs / 1e6:,.1f} M "
        f"| {100 * result.share:.1f} % | {result.latency_ms:.1f} |"
    )


def draw(results: Sequence[Result], path: Path) -> None:
    """Draws GAP against multiply-accumulates."""
    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name in dict.fromkeys(result.model for result in results):
        mine = [result for result in results if result.model == name]
        gaps = [statistics.fmean(result.gap) for result in mine]
        axes.semilogx([result.num_macs for result in mine], gaps, "o-", label=name)
        for result, gap in zip(mine, gaps, strict=True):
            label = "all" if result.every == 1 else f"k={result.every}"
            axes.annotate(label, (result.num_macs, gap), xytext=(4, -10), textcoords="offset points", fontsize=8)
    axes.set_xlabel("multiply-accumulates a clip")
    axes.set_ylabel("GAP")
    axes.set_title("Teachers and students on fewer frames", loc="left")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Prints the table, and all figures as JSON."""
    parser = argparse.ArgumentParser(description="Teachers on all frames, students on fewer.")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to every run")
    parser.add_argument("--models", default=",".join(SMALL), help="families, separated by commas")
    parser.add_argument("--every", default="2,5,10,20,30", help="values of k, separated by commas")
    parser.add_argument("--alone", action="store_true", help="train students on labels alone too")
    parser.add_argument("--from-teacher", action="store_true", help="students begin with their teacher's weights")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--num-videos", type=int, default=8192)
    parser.add_argument("--num-validation", type=int, default=1024)
    parser.add_argument("--num-classes", type=int, default=200)
    parser.add_argument("--num-epochs", type=int, default=6)
    parser.add_argument("--min-frames", type=int, default=240)
    parser.add_argument("--max-frames", type=int, default=300)
    parser.add_argument("--shot", type=int, default=10, help="frames that a planted frame becomes")
    parser.add_argument("--signal", type=float, default=40.0, help="length of a prototype, in noise deviations")
    parser.add_argument("--noise", type=float, default=0.5, help="what a frame adds to its shot's noise, a share of it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--plot", type=Path, help="draw GAP against multiply-accumulates there")
    options = parser.parse_intermixed_args()
    options.every = [int(text) for text in options.every.split(",")]
    print("| model | | GAP | to its teacher | on labels alone | MACs | share | ms a clip |", flush=True)
    print("|---|---|--:|--:|--:|--:|--:|--:|", flush=True)
    results: list[Result] = []
    for name in options.models.split(","):
        mine = report(name, options)
        results += mine
        for result in mine:
            print(row_of(result, mine[0]), flush=True)
        if options.json is not None:
            document = json.dumps([asdict(result) for result in results], indent=2)
            options.json.write_text(document + "\n", encoding="utf-8")
        if options.plot is not None:
            draw(results, options.plot)


if __name__ == "__main__":
    main()

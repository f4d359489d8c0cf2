"""Teachers that see all frames, students that see every k-th: GAP, multiply-accumulates and latency of each.

    python benchmarks/fewer_frames.py [--models hierarchical_lstm] [--every 2,5,10,20,30] [--seeds 1]
        [--alone] [--split validation] [--features rgb,audio] [--device cuda] [--student KEY=VALUE ...]
        [--json FILE] [--plot FILE] [key=value ...]

The report of "Efficient Video Classification Using Fewer Frames" (arXiv:1902.10640) for H-LSTM, NetVLAD and NeXtVLAD at
small sizes. The teacher is trained on labels first; each student then learns from labels and from it, as it is
(serial), by the `teacher` section of the config, beginning with its weights or anew (`--anew`: all of them); `--alone`
trains each from the same beginning on labels alone besides. Runs are `yt8m train`'s loop in one process, without Ray. A
teacher that stays as it is says the same of a clip in each epoch: it is asked once.

Nothing is read: clips of 240 to 300 frames are those of the planted world (`yt8m_ray.data.synthetic.planted_labels`)
with windows of 30 to 60 frames, so that every 30th frame still shows each label; noise is a frame's own, and averages
out over more of them. For a CPU's sake models read the 128 values of `audio` alone, unless told otherwise. Settings are
to be chosen by `--split validation`; what is reported is of other clips. Latency is that of one clip in eval mode, the
median of some passes, on one thread of a CPU that may be busy, or on the device.
"""

from __future__ import annotations

import argparse
import functools
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from yt8m_ray.config.document import override, parse_override
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.features import VideoRow
from yt8m_ray.data.pipeline.batches import batches_of, prefetch, to_batch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.synthetic.planted_labels import PlantedWorld
from yt8m_ray.evaluation import evaluate
from yt8m_ray.losses import build_loss
from yt8m_ray.models import Model, build_model
from yt8m_ray.models.cost import count_macs
from yt8m_ray.schema import FRAME_FEATURES, Batch
from yt8m_ray.training.steps.build_loop import build_loop
from yt8m_ray.training.steps.teachers import FrozenTeacher, TeacherOutputs

NUM_CLASSES = 50
SIGNAL = 40.0
WINDOW_SCALE = 10
CLIP_FRAMES = (240, 300)
BLOCK = 64
EVALUATION_BATCH = 64
NUM_TIMED = 20
MOE = {"name": "moe", "num_mixtures": 2}
SMALL: dict[str, dict[str, Any]] = {
    "hierarchical_lstm": {"cell_dim": 128, "num_layers": 2, "head": MOE},
    "netvlad": {"num_clusters": 64, "hidden_dim": 32, "head": MOE},
    "nextvlad": {"num_clusters": 32, "groups": 4, "expansion": 2, "hidden_dim": 128, "dropout": 0.1},
}
TEACHING = {"representation_weight": 0.01, "prediction_weight": 1.0, "label_weight": 1.0}
TEACHER_BLOCK, STUDENT_BLOCK = 15, 6  # frames; the paper's 20 blocks of 15 frames, and 5 of 6 where every 10th is read
SEEDS = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True)
class Recipe:
    """How a family's teacher and students are trained.

    Attributes:
        num_videos: Clips of an epoch.
        num_epochs: Of the teacher, and of each student.
        learning_rate: Of both.
        starts_from_teacher: Whether students begin with their teacher's weights, as `train.init_from` does, or anew.
    """

    num_videos: int
    num_epochs: int
    learning_rate: float
    starts_from_teacher: bool


RECIPES = {
    "hierarchical_lstm": Recipe(8192, 5, 0.003, starts_from_teacher=True),
    "netvlad": Recipe(3072, 12, 0.004, starts_from_teacher=False),
    "nextvlad": Recipe(3072, 6, 0.002, starts_from_teacher=True),
}


class AskedOnce(FrozenTeacher):
    """A frozen teacher that keeps what it says of each clip."""

    @functools.cached_property
    def _known(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {}

    def outputs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        known = self._known
        if any(video_id not in known for video_id in batch.video_ids):
            said = zip(*super().outputs(batch), strict=True)
            known |= dict(zip(batch.video_ids, said, strict=True))
        representations, logits = zip(*(known[video_id] for video_id in batch.video_ids), strict=True)
        return torch.stack(representations), torch.stack(logits)


@dataclass(frozen=True)
class Result:
    """One model of the report.

    Attributes:
        model: Its family.
        every: k; 1 is the teacher.
        gap: Of clips that no model was trained on, a value a seed.
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


def clips(config: TrainConfig, num_videos: int, *, seed: tuple[int, int]) -> PackedVideos:
    """Returns clips of the planted world, of the features that the config names; others for each seed."""
    world = PlantedWorld(NUM_CLASSES, num_modes=1, world=0, signal=SIGNAL, window_scale=WINDOW_SCALE)
    random = np.random.default_rng(seed)
    packs, rows = [], []
    for number in range(num_videos):
        video = world.draw_clip(random, int(random.integers(CLIP_FRAMES[0], CLIP_FRAMES[1] + 1)))
        parts = np.split(video.features, np.cumsum(list(FRAME_FEATURES.values()))[:-1], axis=1)
        named = dict(zip(FRAME_FEATURES, parts, strict=True))
        frames = np.concatenate([named[feature] for feature in config.data.features], axis=1)
        rows.append(VideoRow(f"{seed[1]}_{number}", frames, video.class_ids.astype(np.int32)))
        if len(rows) == BLOCK or number == num_videos - 1:
            packs.append(PackedVideos.from_rows(rows, config.data.spec, first_record=number + 1 - len(rows)))
            rows = []
    return PackedVideos.concatenate(packs)


def config_of(name: str, every: int, options: argparse.Namespace, *, seed: int, is_taught: bool = False) -> TrainConfig:
    """Returns the run of a teacher (`every` 1) or a student."""
    model = {"name": name, **SMALL[name]}
    if name == "hierarchical_lstm":
        num_read = -(-CLIP_FRAMES[1] // every)
        length = TEACHER_BLOCK if every == 1 else STUDENT_BLOCK
        model |= {"every": every, "num_blocks": max(num_read // length, 1), "max_frames": CLIP_FRAMES[1]}
    elif every > 1:
        model["sampling"] = {"name": "uniform", "every": every}
    document = {
        "run": {"name": f"{name}-{every}", "seed": seed},
        "data": {"features": {key: FRAME_FEATURES[key] for key in options.features}, "num_classes": NUM_CLASSES},
        "model": model,
        "optimizer": {"learning_rate": RECIPES[name].learning_rate, "schedule": "cosine"},
        "train": {"batch_size": 64, "num_epochs": RECIPES[name].num_epochs, "precision": "bfloat16"},
        "teacher": TEACHING if is_taught else {},
    }
    texts = options.overrides if every == 1 else options.overrides + options.student
    changes = dict(map(parse_override, texts))
    if not is_taught:
        changes = {key: value for key, value in changes.items() if not key.startswith("teacher.")}
    return override(TrainConfig.model_validate(document), changes)


def train(
    config: TrainConfig,
    videos: PackedVideos,
    *,
    device: torch.device,
    teacher: FrozenTeacher | None = None,
    start: Model | None = None,
) -> Model:
    """Returns what a run ends with; with a teacher, a student of it. It begins with the weights of `start`, or anew."""
    loop, _ = build_loop(
        config, device=device, num_videos=len(videos), teacher_outputs=TeacherOutputs(frozen_teacher=teacher)
    )
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
    for _ in range(NUM_TIMED + 3):  # the first ones set things up
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
    """Trains a family's teachers and students, and returns the teacher and each student, printing lines meanwhile."""
    device, longest, recipe = torch.device(options.device), CLIP_FRAMES[1], RECIPES[name]
    gaps: dict[int, list[float]] = {every: [] for every in (1, *options.every)}
    alone: dict[int, list[float]] = {every: [] for every in gaps}
    macs = {every: macs_of(config_of(name, every, options, seed=0), longest) for every in gaps}
    latencies: dict[int, float] = {}
    for seed in range(options.seeds):
        of_teacher = config_of(name, 1, options, seed=seed)
        videos = clips(of_teacher, options.num_videos or recipe.num_videos, seed=(seed, SEEDS["train"]))
        unseen = clips(of_teacher, options.num_unseen, seed=(seed, SEEDS[options.split]))
        teacher = train(of_teacher, videos, device=device)
        frozen = AskedOnce(teacher, of_teacher.data.normalize)
        # Which frames are read has no weights: those of a teacher and its students are of one shape.
        start = teacher if recipe.starts_from_teacher and not options.anew else None
        for every in gaps if seed == 0 else (1, *options.repeat):
            started, model = time.perf_counter(), teacher
            config = config_of(name, every, options, seed=seed, is_taught=every > 1)
            if every > 1:
                model = train(config, videos, device=device, teacher=frozen, start=start)
            gaps[every].append(gap_of(model, unseen, config, device))
            line = f"{name} k={every} seed {seed}: GAP {gaps[every][-1]:.4f}"
            if options.alone and every > 1:
                by_labels = config_of(name, every, options, seed=seed)
                alone[every].append(
                    gap_of(train(by_labels, videos, device=device, start=start), unseen, config, device)
                )
                line += f", on labels alone {alone[every][-1]:.4f}"
            latencies.setdefault(every, latency_ms(model, longest, device))
            print(f"{line}, {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return [
        Result(name, every, gaps[every], alone[every], macs[every], macs[every] / macs[1], latencies[every])
        for every in gaps
    ]


def row_of(result: Result, teacher: Result) -> str:
    """Returns a line of the table."""
    gap = statistics.fmean(result.gap)
    to_teacher = [one - other for one, other in zip(result.gap, teacher.gap, strict=False)]  # the seeds that it has
    distance = "" if result is teacher else f"{statistics.fmean(to_teacher):+.4f}"
    if distance and len(to_teacher) > 1:
        distance += f" ({min(to_teacher):+.4f} to {max(to_teacher):+.4f})"
    alone = f"{statistics.fmean(result.gap_alone):.4f}" if result.gap_alone else ""
    who = "teacher" if result is teacher else f"student, k = {result.every}"
    return (
        f"| `{result.model}` | {who} | {gap:.4f} | {distance} | {alone} | {result.num_macs / 1e6:,.1f} M "
        f"| {100 * result.share:.1f} % | {result.latency_ms:.1f} |"
    )


def draw(results: Sequence[Result], path: Path) -> None:
    """Draws GAP against multiply-accumulates."""
    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name in dict.fromkeys(result.model for result in results):
        mine = sorted((result for result in results if result.model == name), key=lambda result: result.num_macs)
        gaps = [result.gap[0] for result in mine]  # the seed that all of them have
        axes.semilogx([result.num_macs for result in mine], gaps, "o-", label=name)
        for result, gap in zip(mine, gaps, strict=True):
            label = "all" if result.every == 1 else f"k={result.every}"
            axes.annotate(label, (result.num_macs, gap), xytext=(4, -10), textcoords="offset points", fontsize=8)
    axes.set_xlabel("multiply-accumulates a clip")
    axes.set_ylabel("GAP, first seed")
    axes.set_title("Teachers and students on fewer frames", loc="left")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Prints the table, and all figures as JSON."""
    parser = argparse.ArgumentParser(description="Teachers on all frames, students on fewer.")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to every run")
    parser.add_argument("--student", action="append", default=[], metavar="KEY=VALUE", help="changes to students' runs")
    parser.add_argument("--models", default=",".join(SMALL), help="families, separated by commas")
    parser.add_argument("--every", default="2,5,10,20,30", help="values of k, separated by commas")
    parser.add_argument("--features", default="audio", help="what is read, separated by commas: rgb, audio")
    parser.add_argument("--alone", action="store_true", help="train students on labels alone too")
    parser.add_argument("--anew", action="store_true", help="students begin with new weights, not their teacher's")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="the clips that GAP is of")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--repeat", default="10", help="values of k that the second seed and further ones have")
    parser.add_argument("--num-videos", type=int, help="clips of an epoch; as many as the family's recipe says")
    parser.add_argument("--num-unseen", type=int, default=1024)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--plot", type=Path, help="draw GAP against multiply-accumulates there")
    options = parser.parse_intermixed_args()
    options.every = [int(text) for text in options.every.split(",")]
    options.repeat = [int(text) for text in options.repeat.split(",")]
    options.features = options.features.split(",")
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

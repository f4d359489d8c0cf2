"""What a student loses when it learns from the best entries of its teacher alone: GAP, and bytes a video on disk.

    python benchmarks/soft_labels.py [--top 20,50,100] [--student logistic] [--num-shards 64]

Real video-level shards ($YT8M_DATA). A teacher (MoE-2) learns from three quarters of the training shards and labels
them; students with the same first weights and batches learn from its scores as they are stored: float32, float16, and
the best N as float16 with the other classes at 0 or at their mean among what was left out (`rest`). GAP is measured on
the last quarter of the training shards, so that the validation shards choose nothing. Bytes are those of the files.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.labels.soft_label_files import to_label_table, write_labels
from yt8m_ray.data.pipeline.batches import to_batch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.pipeline.shard_reader import read_blocks
from yt8m_ray.losses import build_loss
from yt8m_ray.metrics import build_metric
from yt8m_ray.models import Model, build_model
from yt8m_ray.schema import VIDEO_FEATURES

NUM_CLASSES = 3862
STUDENTS = ("logistic", "moe")
SPEC = FeatureSpec(dict(VIDEO_FEATURES), num_classes=NUM_CLASSES)
BATCH_SIZE = 128
TEACHER = {"name": "moe", "num_mixtures": 2}
LEARNING_RATE, DECAY_AN_EPOCH = 0.04, 0.8
WEIGHTS = (1.0, 0.5)
SHARD_VIDEOS = 290  # of the real shards; the published ones have a thousand and more


@dataclass(frozen=True)
class Videos:
    """Videos on the CPU: frames [N, 1, D], normalized, and multi-hot labels [N, C]."""

    frames: torch.Tensor
    labels: torch.Tensor
    video_ids: tuple[str, ...]


def read(shards: list[Path]) -> Videos:
    blocks = (block.videos for path in shards for block in read_blocks(str(path), SPEC, ReadOptions()))
    batch = to_batch(
        PackedVideos.concatenate([videos for videos in blocks if len(videos)]), spec=SPEC, normalize="unwhitened"
    )
    assert batch.labels is not None
    return Videos(batch.frames, batch.labels, batch.video_ids)


def learn(name: str, videos: Videos, targets: torch.Tensor, weight: float, *, num_epochs: int, seed: int = 0) -> Model:
    """Returns a model trained on weight * targets + (1 - weight) * labels; cross-entropy is linear in its labels."""
    torch.manual_seed(seed)
    config = TEACHER if name == "moe" else {"name": name}
    model = build_model(config, feature_sizes=list(VIDEO_FEATURES.values()), num_classes=NUM_CLASSES)
    loss = build_loss({"name": "cross_entropy"})
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, foreach=True)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, DECAY_AN_EPOCH)
    for _ in range(num_epochs):
        for rows in torch.randperm(len(videos.frames)).split(BATCH_SIZE):
            labels = torch.lerp(videos.labels[rows], targets[rows].float(), weight)
            logits = model(videos.frames[rows], torch.ones(len(rows), dtype=torch.int64))
            optimizer.zero_grad()
            loss(logits, labels).backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def scores_of(model: Model, videos: Videos) -> torch.Tensor:
    with torch.inference_mode():
        parts = [model(part, torch.ones(len(part), dtype=torch.int64)) for part in videos.frames.split(BATCH_SIZE)]
    return torch.sigmoid(torch.cat(parts)).clone()


def gap(model: Model, videos: Videos) -> float:
    metric = build_metric("gap")
    metric.update(scores_of(model, videos).numpy(), videos.labels.numpy())
    return metric.compute()


def best_entries(scores: torch.Tensor, count: int, *, rest: bool) -> torch.Tensor:
    """Returns the best `count` scores of each row at float16's precision, the others 0 or their class's mean."""
    best, class_ids = scores.topk(count, dim=1)
    left_out = scores.scatter(1, class_ids, 0.0)
    num_left_out = (left_out > 0).sum(dim=0).clamp(min=1)
    others = left_out.sum(dim=0) / num_left_out if rest else torch.zeros(scores.shape[1])
    return others.expand_as(scores).scatter(1, class_ids, best.half().float())


def bytes_a_video(scores: torch.Tensor, videos: Videos, count: int) -> float:
    """Returns what a file of the best `count` entries takes, all of them where it is 0, over its videos."""
    size = min(len(videos.video_ids), SHARD_VIDEOS)
    best, class_ids = scores[:size].topk(count or 1, dim=1)
    ids = class_ids.numpy().astype(np.uint16) if count else np.empty((size, 0), np.uint16)
    kept = (best if count else scores[:size]).half().numpy()
    table = to_label_table(np.arange(size, dtype=np.int32), list(videos.video_ids[:size]), kept, ids)
    with tempfile.TemporaryDirectory(prefix="yt8m_soft_labels_") as folder:
        path = Path(folder) / "a.arrow"
        write_labels(path, [table])
        return path.stat().st_size / size


def variants(
    scores: torch.Tensor, videos: Videos, tops: list[int]
) -> Iterator[tuple[str, float, Callable[[], torch.Tensor]]]:
    """Yields the name, the bytes a video and the scores as they come back, of every way to store them."""
    yield "float32", 4.0 * NUM_CLASSES, lambda: scores
    yield "float16", bytes_a_video(scores, videos, 0), scores.half
    for top in tops:
        num_bytes = bytes_a_video(scores, videos, top)
        yield f"top {top}", num_bytes, functools.partial(best_entries, scores, top, rest=False)
        yield f"top {top} rest", num_bytes, functools.partial(best_entries, scores, top, rest=True)


def main() -> None:
    """Prints a line a student."""
    parser = argparse.ArgumentParser(description="What a student loses when it learns from the best entries alone.")
    parser.add_argument("--top", default="20,50,100,200", help="numbers, separated by commas")
    parser.add_argument("--student", choices=STUDENTS, default="logistic")
    parser.add_argument("--num-shards", type=int, default=64)
    parser.add_argument("--num-epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    root = Path(os.environ.get("YT8M_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    shards = sorted((root / "yt8m" / "v2_video" / "train").glob("*.tfrecord"))[: options.num_shards]
    if not shards:
        sys.exit(f"no real data in {root}; set YT8M_DATA")
    num_train = len(shards) * 3 // 4
    train, held_out = read(shards[:num_train]), read(shards[num_train:])
    seen = {"num_epochs": options.num_epochs, "seed": options.seed}
    teacher = learn("moe", train, train.labels, 0.0, **seen)
    scores = scores_of(teacher, train)
    print(f"{len(train.frames)} videos; GAP of the teacher {gap(teacher, held_out):.4f}", flush=True)
    alone = gap(learn(options.student, train, train.labels, 0.0, **seen), held_out)
    print(f"{options.student} on labels alone: GAP {alone:.4f}", flush=True)
    tops = [int(text) for text in options.top.split(",")]
    for weight in WEIGHTS:
        for name, num_bytes, make in variants(scores, train, tops):
            found = gap(learn(options.student, train, make(), weight, **seen), held_out)
            print(f"weight {weight:3.1f}  {name:12s} {num_bytes:7.0f} bytes a video  GAP {found:.4f}", flush=True)


if __name__ == "__main__":
    main()

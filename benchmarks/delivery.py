"""How many videos a second Ray Data brings to the training step, beside raw reader processes in the same run.

    python benchmarks/delivery.py [--folder DIR] [--num-readers 2] [--json]

Both sides read the same frame-level shards (a gigabyte, page cache, checksums verified) with the same reader in the
same number of processes, and end with packed uint8 frames in a tensor of the consumer's own on its device. The raw side
is the least that can be: each reader copies its blocks into shared memory, the consumer copies them out. Ray's side is
what a training worker does: blocks through the object store, batches of 128 drawn by `batches_of` in a second thread.
Rates are those from a pass's first block on: the start of a pass, here a few gigabytes and in earnest a terabyte, is
told apart. The breakdown is CPU time a video by process; rounds alternate, the best of each side counts.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from benchmarks.raw_readers import SLOT_BYTES, raw_readers
from benchmarks.shards import make_shards
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.local_cluster import configure_environment, import_environment, local_environment
from yt8m_ray.schema import FRAME_FEATURES, NUM_CLASSES_2018

SPEC = FeatureSpec(FRAME_FEATURES, num_classes=NUM_CLASSES_2018)
BATCH_SIZE = 128


def deliver_raw(paths: list[str], num_readers: int, device: torch.device) -> float:
    """Returns videos a second."""
    tensor = torch.empty(2 * SLOT_BYTES, dtype=torch.uint8, device=device)
    num_videos = 0
    with raw_readers(paths, SPEC, num_readers) as packs:
        started = time.perf_counter()
        for videos in packs:
            tensor[: videos.frames.size].copy_(torch.from_numpy(videos.frames.reshape(-1)))
            num_videos += len(videos)
        elapsed = time.perf_counter() - started
        del videos
    return num_videos / elapsed


@dataclass(frozen=True)
class Delivery:
    """A pass of Ray Data: how long until its first block, videos a second from then on and in all, CPU by process."""

    start_s: float
    videos_per_s: float
    videos_per_s_with_start: float
    cpu_us: Counter[str]


def deliver_by_ray(paths: list[str], device: torch.device, *, cache: str | None = None) -> Delivery:
    from yt8m_ray.data.pipeline.batches import batches_of, prefetch
    from yt8m_ray.data.pipeline.packed_videos import PackedVideos, from_table
    from yt8m_ray.data.pipeline.ray_dataset import read_dataset, split_dataset

    (part,) = split_dataset(read_dataset(paths, SPEC, cache=cache), 1)
    first: list[tuple[float, int]] = []

    def videos() -> Iterator[PackedVideos]:
        for table in part.iter_batches(batch_size=None, batch_format="pyarrow"):
            found = from_table(table, SPEC).videos
            first.append((time.perf_counter(), len(found)))
            yield found

    before, started, num_videos = cpu_by_process(), time.perf_counter(), 0
    for batch in prefetch(batches_of(videos(), batch_size=BATCH_SIZE, pin_memory=device.type == "cuda")):
        torch.from_numpy(batch.frames).to(device, non_blocking=True)
        num_videos += len(batch)
    ended = time.perf_counter()
    used = cpu_by_process()
    used.subtract(before)
    return Delivery(
        start_s=first[0][0] - started,
        videos_per_s=(num_videos - first[0][1]) / (ended - first[0][0]),
        videos_per_s_with_start=num_videos / (ended - started),
        cpu_us=Counter({name: seconds / num_videos * 1e6 for name, seconds in used.items()}),
    )


def cpu_by_process() -> Counter[str]:
    """Returns CPU seconds of this process and Ray's, by kind."""
    used: Counter[str] = Counter()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            title, times = " ".join(process.cmdline()[:1]), process.cpu_times()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        kind = "consumer" if process.pid == os.getpid() else "other Ray processes"
        if "SplitCoordinator" in title:
            kind = "split coordinator"
        elif title.startswith("ray::") and "_" not in title.removeprefix("ray::")[:1] and "Dash" not in title:
            kind = "readers"
        elif "raylet" in title or "gcs_server" in title:
            kind = "raylet and GCS"
        used[kind] += times.user + times.system
    return used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="keep the shards here, or take those that are here")
    parser.add_argument("--num-readers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=4, help="passes over the shards in a round")
    parser.add_argument("--cache", action="store_true", help="measure Ray's side from data.cache as well")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = compare(options, options.folder or f"{scratch}/shards", scratch)
    for name, value in figures.items():
        print(f"{name:45s} {value:10.2f}")
    if options.json:
        print(json.dumps(figures))


def compare(options: argparse.Namespace, folder: str, scratch: str) -> dict[str, float]:
    from yt8m_ray.cli.command import RAY_ENVIRONMENT

    configure_environment(RAY_ENVIRONMENT, import_environment())  # Ray reads it when it is imported

    import ray

    from yt8m_ray.data.pipeline import ray_dataset as dataset

    dataset.READ_CPUS = 1.0  # as many readers at once as there are CPUs; in training more of them share one
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    paths = make_shards(folder) * options.repeat
    raw, through_ray, cached = [], [], []
    for _ in range(options.rounds):
        raw.append(deliver_raw(paths, options.num_readers, device))
        # Ray's processes exist only while they are measured.
        os.environ.update(local_environment())
        ray.init(
            "local",
            num_cpus=options.num_readers,
            object_store_memory=1 << 30,
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env={"env_vars": {name: os.environ[name] for name in RAY_ENVIRONMENT}},
        )
        try:
            deliver_by_ray(paths, device)  # worker processes start and touch their memory
            through_ray.append(deliver_by_ray(paths, device))
            if options.cache:
                deliver_by_ray(paths, device, cache=f"{scratch}/cache")
                cached.append(deliver_by_ray(paths, device, cache=f"{scratch}/cache"))
        finally:
            ray.shutdown()
    best = max(through_ray, key=lambda found: found.videos_per_s)
    figures = {
        "videos_per_s_raw": max(raw),
        "videos_per_s_ray": best.videos_per_s,
        "share_of_raw": best.videos_per_s / max(raw),
        "pass_start_s": best.start_s,
        "videos_per_s_ray_with_start": best.videos_per_s_with_start,
    }
    if cached:
        rate = max(found.videos_per_s for found in cached)
        figures |= {"videos_per_s_ray_cached": rate, "gain_of_cache": rate / best.videos_per_s}
    return figures | {f"cpu_us_a_video_{name.replace(' ', '_')}": value for name, value in sorted(best.cpu_us.items())}


if __name__ == "__main__":
    main()

"""How fast shards are read, beside tf.data in the same run.

    python benchmarks/reader.py --peer PYTHON_WITH_TENSORFLOW [--json] [--folder DIR]

The peer writes the shards (120 to 300 frames a video, about a gigabyte) and reads them on pinned cores, with checksums,
from the page cache, in rounds that alternate with ours; the best round of each counts. CPU time a video is the steady
unit on a machine that does other work as well. Ours are blocks of packed uint8 frames, as training takes them;
`padded` also pads each to [300, 1152], as the peers' batches are. `read` is `open(shard, "rb").read()`; `readinto`
fills one small buffer again and again, which no reader can reach that looks at the bytes.
"""

from __future__ import annotations

import argparse
import glob
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from benchmarks.measure import Figures, best, cores, run_pinned

PEER = str(Path(__file__).parent / "peers" / "tensorflow_reader.py")
NUM_VIDEOS = {"frame": 4096, "video": 100_000}
NUM_SHARDS = 8
BATCH_BYTES = 128 * 210 * 1152
BUFFER_BYTES = 1 << 20
SIZES = {"frame": {"rgb": 1024, "audio": 128}, "video": {"mean_rgb": 1024, "mean_audio": 128}}


def read_ours(paths: list[str], level: str, *, padded: bool = False) -> int:
    """Returns the number of videos."""
    from yt8m_ray.data.format.features import FeatureSpec
    from yt8m_ray.data.pipeline.read_options import ReadOptions
    from yt8m_ray.data.pipeline.shard_reader import read_blocks

    spec = FeatureSpec(SIZES[level], num_classes=3862)
    batch = np.empty((128, 300, spec.dim), np.uint8) if padded else None
    num_videos = 0
    for path in paths:
        for block in read_blocks(path, spec, ReadOptions(block_bytes=BATCH_BYTES)):
            videos = block.videos
            num_videos += len(videos)
            if batch is not None:
                start = 0
                for index, count in enumerate(videos.num_frames.tolist()):
                    row = batch[index % 128]
                    row[:count] = videos.frames[start : start + count]
                    row[count:] = 0
                    start += count
    return num_videos


def read_plainly(paths: list[str], level: str) -> int:
    for path in paths:
        with open(path, "rb") as file:
            file.read()
    return NUM_VIDEOS[level]


def read_into_a_buffer(paths: list[str], level: str) -> int:
    buffer = bytearray(BUFFER_BYTES)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return NUM_VIDEOS[level]


def read_tfrecord_package(paths: list[str], level: str) -> int:
    from tfrecord.reader import tfrecord_loader

    num_videos = 0
    for path in paths:
        features = {"rgb": "byte", "audio": "byte"}
        for _, lists in tfrecord_loader(path, None, {"id": "byte", "labels": "int"}, sequence_description=features):
            frames = [
                np.frombuffer(b"".join(lists[name]), np.uint8).reshape(-1, size) for name, size in SIZES[level].items()
            ]
            np.concatenate(frames, axis=1)
            num_videos += 1
    return num_videos


READERS: dict[str, Callable[[list[str], str], int]] = {
    "ours": read_ours,
    "padded": lambda paths, level: read_ours(paths, level, padded=True),
    "read": read_plainly,
    "readinto": read_into_a_buffer,
    "tfrecord": read_tfrecord_package,
}


def measure(reader: str, level: str, paths: list[str], passes: int) -> Figures:
    rounds = []
    for _ in range(passes + 1):  # the first one warms up
        cpu, wall = time.process_time(), time.perf_counter()
        num_videos = READERS[reader](paths, level)
        rounds.append({"videos": num_videos, "cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall})
    return best(rounds[1:])


def _work(paths: list[str], ready: object, results: object) -> None:
    READERS["ours"](paths[:1], "frame")
    ready.wait()  # type: ignore[attr-defined]
    for _ in range(4):
        READERS["ours"](paths, "frame")
    results.put(time.time())  # type: ignore[attr-defined]


def measure_two_processes(paths: list[str]) -> Figures:
    """Returns videos and wall_s of two processes that share the shards, of which there is an even number."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(3), context.SimpleQueue()
    workers = [context.Process(target=_work, args=(paths[index::2], ready, results)) for index in range(2)]
    for worker in workers:
        worker.start()
    ready.wait()
    started = time.time()
    ended = max(results.get() for _ in workers)
    for worker in workers:
        worker.join()
    return {"videos": 4 * NUM_VIDEOS["frame"], "cpu_s": 0.0, "wall_s": ended - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="a Python that has TensorFlow")
    parser.add_argument("--folder", help="keep the shards here, or take those that are here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--measure", choices=[*READERS, "two"], help=argparse.SUPPRESS)
    parser.add_argument("--level", choices=tuple(SIZES), default="frame", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        paths = sorted(glob.glob(f"{options.folder}/{options.level}*.tfrecord"))
        two = options.measure == "two"
        print(json.dumps(measure_two_processes(paths) if two else measure(options.measure, options.level, paths, 3)))
        return
    if not options.peer:
        parser.error("--peer: expected a Python that has TensorFlow, such as /path/to/venv/bin/python")
    with tempfile.TemporaryDirectory() as scratch:
        figures = compare(options.peer, options.folder or scratch, options.rounds)
    for line in describe(figures):
        print(line)
    if options.json:
        print(json.dumps(figures))


def compare(peer: str, folder: str, rounds: int) -> Figures:
    for level, count in NUM_VIDEOS.items():
        if not glob.glob(f"{folder}/{level}*.tfrecord"):
            write = [peer, PEER, "write", folder, "--level", level, "--num-videos", str(count)]
            run_pinned([*write, "--num-shards", str(NUM_SHARDS)], cores=cores())
    one, two = cores()[:1], cores()[:2]
    found: dict[str, list[Figures]] = {}

    def ours(name: str, level: str, pinned: list[int]) -> None:
        command = [sys.executable, __file__, "--measure", name, "--level", level, "--folder", folder]
        found.setdefault(f"{name} {level}", []).append(run_pinned(command, cores=pinned))

    def theirs(name: str, level: str, pinned: list[int]) -> None:
        command = [peer, PEER, "read", folder, "--reader", name, "--level", level, "--num-threads", str(len(pinned))]
        key = f"{name} {level}" + (" two" if len(pinned) == 2 else "")
        found.setdefault(key, []).append(run_pinned(command, cores=pinned))

    for _ in range(rounds):
        for name in ("ours", "padded", "read", "readinto"):
            ours(name, "frame", one)
        theirs("lean", "frame", one)
        theirs("starter", "frame", one)
        ours("tfrecord", "frame", one)
        ours("ours", "video", one)
        theirs("batched", "video", one)
        ours("two", "frame", two)
        theirs("lean", "frame", two)
    return ratios({name: best(figures) for name, figures in found.items()})


def ratios(found: dict[str, Figures]) -> Figures:
    cpu = {name: figures["cpu_s"] / figures["videos"] * 1e6 for name, figures in found.items()}
    rate = {name: figures["videos"] / figures["wall_s"] for name, figures in found.items()}
    us = {f"cpu_us_a_video_{name.replace(' ', '_')}": round(value, 2) for name, value in cpu.items() if value}
    per_second = {
        f"videos_per_s_{name.replace(' ', '_')}": round(rate[name]) for name in ("two frame", "lean frame two")
    }
    return {
        **us,
        **per_second,
        "cpu_ratio_to_tf_data_one_core": round(cpu["lean frame"] / cpu["ours frame"], 2),
        "padded_cpu_ratio_to_tf_data_one_core": round(cpu["lean frame"] / cpu["padded frame"], 2),
        "cpu_ratio_to_starter_reader": round(cpu["starter frame"] / cpu["ours frame"], 2),
        "cpu_ratio_to_tfrecord_package": round(cpu["tfrecord frame"] / cpu["ours frame"], 2),
        "rate_ratio_to_tf_data_two_cores": round(rate["two frame"] / rate["lean frame two"], 2),
        "share_of_read_speed": round(cpu["read frame"] / cpu["ours frame"], 3),
        "share_of_readinto_speed": round(cpu["readinto frame"] / cpu["ours frame"], 3),
        "video_level_ratio_to_parse_example": round(cpu["batched video"] / cpu["ours video"], 2),
    }


def describe(figures: Figures) -> list[str]:
    return [f"{name:45s} {value:10.2f}" for name, value in figures.items()]


if __name__ == "__main__":
    main()

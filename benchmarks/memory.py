"""How much memory reading takes, for few shards and for many times as many.

    python benchmarks/memory.py [--folder DIR] [--json]

First the reader alone, then Ray Data as a training worker uses it: peak resident memory of the process that reads, and
of all processes and the object store together. The shards are the same ones over and over, so that the data grows and
the disk does not.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from benchmarks.shards import make_shards
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.local_cluster import configure_environment, import_environment, local_environment
from yt8m_ray.schema import FRAME_FEATURES, NUM_CLASSES_2018

SPEC = FeatureSpec(FRAME_FEATURES, num_classes=NUM_CLASSES_2018)
TIMES = (2, 8, 16)
STORE_BYTES = 1 << 30
MB = 2**20


class Peak:
    """The most that this process and its children held at once while the `with` block ran, sampled."""

    def __init__(self) -> None:
        self.resident = self.shared = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            private = shared = 0.0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    memory = process.memory_info()
                except psutil.Error:
                    continue
                private += memory.rss - memory.shared
                shared = max(shared, memory.shared)  # the object store, of which each process maps a part
            self.resident, self.shared = max(self.resident, private), max(self.shared, shared)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def read_alone(paths: list[str]) -> dict[str, float]:
    from yt8m_ray.data.pipeline.shard_reader import read_blocks

    with Peak() as peak:
        num_videos = sum(len(block.videos) for path in paths for block in read_blocks(path, SPEC))
    return {"videos": num_videos, "resident_mb": peak.resident / MB}


def read_by_ray(paths: list[str]) -> dict[str, float]:
    from yt8m_ray.cli.command import RAY_ENVIRONMENT

    configure_environment(RAY_ENVIRONMENT, import_environment())  # Ray reads it when it is imported

    import ray

    from yt8m_ray.data.pipeline.batches import batches_of, prefetch
    from yt8m_ray.data.pipeline.packed_videos import from_table
    from yt8m_ray.data.pipeline.ray_dataset import read_dataset, split_dataset

    os.environ.update(local_environment())
    ray.init(
        "local",
        num_cpus=2,
        object_store_memory=STORE_BYTES,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"env_vars": {name: os.environ[name] for name in RAY_ENVIRONMENT}},
    )
    try:
        (part,) = split_dataset(read_dataset(paths, SPEC), 1)
        tables = part.iter_batches(batch_size=None, batch_format="pyarrow")
        with Peak() as peak:
            videos = (from_table(table, SPEC).videos for table in tables)
            num_videos = sum(len(batch) for batch in prefetch(batches_of(videos, batch_size=128, shuffle_window=1024)))
    finally:
        ray.shutdown()
    return {"videos": num_videos, "resident_mb": peak.resident / MB, "object_store_mb": peak.shared / MB}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="keep the shards here, or take those that are here")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--measure", choices=("alone", "ray"), help=argparse.SUPPRESS)
    parser.add_argument("--times", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        paths = make_shards(options.folder) * options.times
        print(json.dumps(read_alone(paths) if options.measure == "alone" else read_by_ray(paths)))
        return
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or scratch
        num_shards = len(make_shards(folder))
        for way in ("alone", "ray"):
            for times in TIMES:
                command = [sys.executable, __file__, "--measure", way, "--times", str(times), "--folder", folder]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                figures |= {f"{way}_{num_shards * times}_shards_{name}": value for name, value in found.items()}
    for name, value in figures.items():
        print(f"{name:45s} {value:12.1f}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()

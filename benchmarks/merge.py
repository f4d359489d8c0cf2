"""How fast prediction files are merged, beside the plain loop that gives the same bytes, in the same run.

    python benchmarks/merge.py [--num-videos 1000000] [--num-files 2] [--shuffled] [--geometric] [--equal]

The peer is `peers/plain_merge.py`. The files have 20 classes a video, scores as "%g", some 310 MB for a million videos;
every file lists other classes with other scores. One process after the other, each on one core with one thread; CPU
seconds of the merge alone, imports not counted; `merge_s` is how long that took, waiting included, and `wall_s` the
whole command. Both outputs have to be equal. `--shuffled` puts all files but the first into another order. Weights are
1, 2, ..., or equal with `--equal`, which makes more scores end in halves. Memory is the peak of the process, and how
much of it is not a mapped file, which the system may take back.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import sys
import tempfile
import time
from pathlib import Path

# Before NumPy is imported, which reads them.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from measure import Figures, best, cores, run_pinned
from peers.plain_merge import merge_plainly

from yt8m_ray.inference.predictions.merge import merge_predictions
from yt8m_ray.inference.predictions.rows import Row
from yt8m_ray.inference.predictions.writer import SubmissionWriter

NUM_CLASSES = 3862
NUM_LISTED = 20
BLOCK_VIDEOS = 10_000


def write_files(folder: Path, num_videos: int, num_files: int, *, is_shuffled: bool) -> list[str]:
    """Writes files whose scores fall off as those of real models do: near 1 the first, near 1e-4 the last."""
    paths = []
    order = np.random.default_rng(1).permutation(num_videos)
    for number in range(num_files):
        rng = np.random.default_rng(number + 2)
        paths.append(str(folder / f"{number}.csv"))
        with SubmissionWriter(paths[-1]) as writer:
            for start in range(0, num_videos, BLOCK_VIDEOS):
                videos = np.arange(start, min(start + BLOCK_VIDEOS, num_videos))
                if is_shuffled and number:
                    videos = order[videos]
                writer.write_rows(make_rows(videos, rng))
    return paths


def make_rows(videos: np.ndarray, rng: np.random.Generator) -> list[Row]:
    count = len(videos)
    # A start and a step a video, both prime to the number of classes or small: no class twice.
    common = (videos * 2_654_435_761 % NUM_CLASSES)[:, None]
    class_ids = (common + np.arange(NUM_LISTED) * rng.integers(1, 8, (count, 1))) % NUM_CLASSES
    scores = -np.sort(-(rng.random((count, NUM_LISTED)) ** 6), axis=1)
    ids = (f"v{video:010d}" for video in videos.tolist())
    return [Row(*row) for row in zip(ids, class_ids.tolist(), scores.tolist(), strict=True)]


def merge_once(paths: list[str], output: str, *, is_ours: bool, is_geometric: bool, is_equal: bool) -> Figures:
    """Merges files; returns the seconds and the peak memory of this process."""
    weights = [1.0 if is_equal else float(number + 1) for number in range(len(paths))]
    started, began = time.process_time(), time.monotonic()
    if is_ours:
        merge_predictions(paths, output=output, weights=weights, mean="geometric" if is_geometric else "arithmetic")
    else:
        merge_plainly(paths, [weight / sum(weights) for weight in weights], output, geometric=is_geometric)
    return {"cpu_s": time.process_time() - started, "merge_s": time.monotonic() - began, **peak_memory()}


def peak_memory() -> Figures:
    """Returns the peak of this process in MB, and what of its memory is now no mapped file."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(status[key].split()[0]) / 1024 for name, key in (("peak_mb", "VmHWM"), ("own_mb", "RssAnon"))}


def run_one(arguments: list[str]) -> None:
    """The measured process: SYSTEM MEAN WEIGHTS OUTPUT FILES..."""
    system, mean, weights, output, *paths = arguments
    options = {"is_ours": system == "ours", "is_geometric": mean == "geometric", "is_equal": weights == "equal"}
    print(json.dumps(merge_once(paths, output, **options)))


def compare(options: argparse.Namespace, folder: Path) -> Figures:
    paths = write_files(folder, options.num_videos, options.num_files, is_shuffled=options.shuffled)
    kind = ["geometric" if options.geometric else "arithmetic", "equal" if options.equal else "unequal"]
    rounds: dict[str, list[Figures]] = {"ours": [], "plain": []}
    for system in [*rounds] * options.rounds:
        started = time.monotonic()
        command = [sys.executable, __file__, "--one", system, *kind, str(folder / f"{system}.csv"), *paths]
        figures = run_pinned(command, cores=cores()[:1])
        rounds[system].append({**figures, "wall_s": time.monotonic() - started})
    if not filecmp.cmp(folder / "ours.csv", folder / "plain.csv", shallow=False):
        sys.exit("the two outputs differ")
    figures = {f"{name}_{system}": least for system in rounds for name, least in best(rounds[system]).items()}
    return {
        "input_mb": sum(os.path.getsize(path) for path in paths) / 1e6,
        **figures,
        "videos_per_cpu_s_ours": options.num_videos / figures["cpu_s_ours"],
        "ratio_to_the_plain_loop": figures["cpu_s_plain"] / figures["cpu_s_ours"],
    }


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-videos", type=int, default=1_000_000)
    parser.add_argument("--num-files", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="of both in turn; the least of each figure counts")
    parser.add_argument("--shuffled", action="store_true", help="all files but the first in another order")
    parser.add_argument("--geometric", action="store_true", help="geometric means")
    parser.add_argument("--equal", action="store_true", help="equal weights")
    parser.add_argument("--folder", help="where the files are made (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = compare(options, Path(folder))
    for name, value in figures.items():
        print(f"{name:26s} {value:12.2f}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()

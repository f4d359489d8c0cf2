"""Does a search find what a full grid finds, with fewer epochs; and what does a trial cost beside its training?

    python benchmarks/search.py grid [--output FOLDER] [--seeds 0,1,2]
    python benchmarks/search.py overhead [--trials 6]

`grid` makes synthetic frame-level shards of classes with two looks each, on which more clusters and more mixtures pay,
trains every configuration of a grid of NetVLADs to its end, and lets TPE and random search with ASHA choose among the
same, with a budget of 40 % of the grid's epochs. Runs of one worker repeat to the last digit: a configuration has the
same score in all searches. Continues after an interruption.

`overhead` times trials of one epoch on tiny shards, one by one, and the peer `TorchTrainer.fit` with one worker
and an empty loop, on the same cluster; the seconds of a trial's own epoch are told apart.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from yt8m_ray.cli.command import RAY_ENVIRONMENT, ray_cluster
from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.data.synthetic.config import SynthesisConfig
from yt8m_ray.data.synthetic.write_shards import synthesize
from yt8m_ray.local_cluster import configure_environment, import_environment
from yt8m_ray.metrics import build_metric
from yt8m_ray.tuning.records import TrialRecord, ranked, total_epochs

configure_environment(RAY_ENVIRONMENT, import_environment())  # Ray reads it when it is imported, by the search

from yt8m_ray.tuning.search import search  # noqa: E402

say = functools.partial(print, file=sys.stdout, flush=True)  # with a cluster, what is printed goes to stderr

SHARE_OF_EPOCHS = 0.4
TOLERANCE = 0.01
NUM_EPOCHS = 7
WORLD = {"num_classes": 8, "modes_per_class": 2, "signal": 24, "min_frames": 12, "max_frames": 14}
SPACE = {
    "model.num_clusters": {"choice": [2, 4, 8, 24]},
    "model.head.num_mixtures": {"choice": [1, 4, 8]},
    "optimizer.learning_rate": {"choice": [0.01, 0.03, 0.1]},
}
SEARCHES: dict[str, dict[str, Any]] = {
    "tpe + asha": {"searcher": {"name": "tpe"}, "scheduler": {"name": "asha"}},
    "random + asha": {"searcher": {"name": "random"}, "scheduler": {"name": "asha"}},
}


def make_shards(folder: Path, videos_per_shard: int) -> None:
    """Writes both splits of the world."""
    for split, num_shards in (("train", 4), ("validate", 2)):
        if not (folder / split / "dataset.json").exists():
            sizes = {"split": split, "num_shards": num_shards, "videos_per_shard": videos_per_shard}
            config = SynthesisConfig.model_validate({"kind": "frame", **sizes, **WORLD})
            synthesize(config, str(folder / split), source_shards=[], new_gap=lambda: build_metric("gap"))


def search_config(folder: Path, name: str, num_epochs: int, **tune: Any) -> TuneConfig:
    """Returns a search of NetVLADs on the shards in `folder`."""
    return TuneConfig.model_validate(
        {
            "output": str(folder / "runs"),
            "run": {"name": name},
            "data": {
                "features": {"audio": 128},
                "num_classes": WORLD["num_classes"],
                "max_frames": WORLD["max_frames"],
                "train": str(folder / "train" / "*.tfrecord"),
                "validation": str(folder / "validate" / "*.tfrecord"),
            },
            "model": {
                "name": "netvlad",
                "num_clusters": 8,
                "hidden_dim": 3,
                "gating": False,
                "batch_norm_momentum": 0.1,
                "head": {"name": "moe", "num_mixtures": 4},
            },
            "optimizer": {"learning_rate": 0.03},
            "train": {"batch_size": 64, "num_epochs": num_epochs},
            "tune": {"space": SPACE, "max_concurrent": 1, "dashboard_port": None, **tune},
        }
    )


def compare_with_grid(folder: Path, seeds: list[int]) -> None:
    """Prints what each search finds beside the grid."""
    make_shards(folder, videos_per_shard=800)
    grid_tune = {"searcher": {"name": "grid"}, "scheduler": {"name": "fifo"}, "budget": {"trials": None}}
    grid = search(search_config(folder, "grid", NUM_EPOCHS, **grid_tune)).records
    best, num_epochs = ranked(grid)[0].best_score, total_epochs(grid)
    print_grid(grid)
    say(
        f"\n{'search':16}{'seed':>5}{'trials':>8}{'epochs':>8}{'of the grid':>13}{'best GAP':>10}{'below the grid':>16}"
    )
    say(f"{'grid':16}{'':5}{len(grid):8}{num_epochs:8}{1:13.0%}{best:10.4f}")
    for name, tune in SEARCHES.items():
        for seed in seeds:
            searcher = {**tune["searcher"], "seed": seed}
            budget = {"trials": None, "epochs": int(SHARE_OF_EPOCHS * num_epochs)}
            changes = {**tune, "searcher": searcher, "budget": budget}
            run = f"{name.replace(' + ', '_')}_{seed}"
            records = search(search_config(folder, run, NUM_EPOCHS, **changes)).records
            found, spent = ranked(records)[0].best_score, total_epochs(records)
            verdict = "" if best - found <= TOLERANCE and spent <= SHARE_OF_EPOCHS * num_epochs else "  missed"
            say(
                f"{name:16}{seed:5}{len(records):8}{spent:8}{spent / num_epochs:13.1%}{found:10.4f}{best - found:16.4f}"
                f"{verdict}"
            )


def print_grid(records: list[TrialRecord]) -> None:
    """Prints the best GAP over the learning rates, by clusters and mixtures."""
    table: dict[tuple[int, int], float] = {}
    for record in records:
        key = (record.params["model.num_clusters"], record.params["model.head.num_mixtures"])
        table[key] = max(table.get(key, 0.0), record.best_score)
    mixtures = sorted({key[1] for key in table})
    say(f"{'clusters':10}" + "".join(f"{f'{number} mixtures':>13}" for number in mixtures))
    for clusters in sorted({key[0] for key in table}):
        say(f"{clusters:<10}" + "".join(f"{table[clusters, number]:13.4f}" for number in mixtures))


def time_overhead(folder: Path, num_trials: int) -> None:
    """Prints the seconds of trials beside those of the bare trainer."""
    import ray.train
    import ray.train.torch

    def bare() -> float:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as notes:
            ray.train.torch.TorchTrainer(
                lambda: None,
                scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
                run_config=ray.train.RunConfig(name="bare", storage_path=notes),
            ).fit()
        return time.perf_counter() - started

    make_shards(folder, videos_per_shard=100)
    peers = [bare() for _ in range(num_trials)]
    tune = {"searcher": {"name": "random"}, "scheduler": {"name": "fifo"}, "budget": {"trials": num_trials}}
    started = time.perf_counter()
    records = search(search_config(folder, "overhead", 1, **tune)).records
    whole = time.perf_counter() - started
    trials = [record.ended_s - record.started_s for record in records if record.ended_s and record.started_s]
    beside = [trial - record.seconds for trial, record in zip(trials, records, strict=True)]
    peer = statistics.median(peers)
    say(json.dumps({"bare_fit_s": peers, "trial_s": trials, "trial_without_its_epoch_s": beside, "search_s": whole}))
    say(f"\n{'seconds, median of ' + str(num_trials):36}{'':>8}{'x bare fit':>12}")
    say(f"{'TorchTrainer.fit, empty loop':36}{peer:8.2f}{1:12.2f}")
    for name, values in (("a trial with its epoch", trials), ("a trial beside its epoch", beside)):
        median = statistics.median(values)
        say(f"{name:36}{median:8.2f}{median / peer:12.2f}")
    say(f"{'first trial (a process starts)':36}{trials[0]:8.2f}{trials[0] / peer:12.2f}")
    say(f"{'whole search, a trial':36}{whole / num_trials:8.2f}{whole / num_trials / peer:12.2f}")


def main() -> None:
    """Runs one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("grid", "overhead"))
    parser.add_argument("--output", help="a folder that is kept (default: a temporary one)")
    parser.add_argument("--seeds", default="0,1,2", help="of the searchers (default 0,1,2)")
    parser.add_argument("--trials", type=int, default=6, help="of `overhead`, and how often the bare fit (default 6)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ray_cluster():
        folder = Path(options.output or temporary).absolute()
        if options.what == "grid":
            compare_with_grid(folder, [int(seed) for seed in options.seeds.split(",")])
        else:
            time_overhead(folder, options.trials)


if __name__ == "__main__":
    main()

"""python -m jobs.cross_validate CONFIG data.folds=N [section.key=value ...] [--num-parallel P]: all folds of a run.

Each fold is a run of its own, NAME-fold0 and so on, as many at once as the cluster has CPUs for. stdout is one JSON
document: the GAP of each fold, its mean and spread, and where the predictions of all videos are, each by the fold that
had not seen it. The same command continues: finished folds are not trained again.
"""

from __future__ import annotations

import json

from jobs.cli import add_dry_run, exit_if_dry, load_config, new_parser, ray_cluster, run_verb
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.training.cross_validation import cross_validate, folds_of


def main(argv: list[str]) -> None:
    parser = new_parser("Trains all folds of a run.")
    parser.add_argument("arguments", nargs="+", metavar="CONFIG | key=value", help="a train config, dotted keys")
    parser.add_argument("--num-parallel", type=int, help="folds at once (default: what the cluster has CPUs for)")
    add_dry_run(parser)
    # Keys may follow the flags.
    options = parser.parse_intermixed_args(argv)
    if options.num_parallel is not None and options.num_parallel < 1:
        raise ConfigError(f"--num-parallel: expected at least 1, found {options.num_parallel}")
    config = load_config(options.arguments, TrainConfig)
    exit_if_dry(options, config)
    folds = folds_of(config)
    with ray_cluster():
        report = cross_validate(folds, num_parallel=options.num_parallel)
    print(json.dumps(report))
    if report["num_failed"]:
        raise RuntimeError(f"{report['num_failed']} of {len(folds)} folds failed; the same command tries again")


if __name__ == "__main__":
    run_verb(main)

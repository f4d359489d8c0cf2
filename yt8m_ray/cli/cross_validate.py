"""yt8m cross-validate CONFIG data.folds=N [section.key=value ...] [--num-parallel P]: all folds of a run.

Each fold is a run of its own, NAME-fold0 and so on, as many at once as the cluster has CPUs for. stdout is one JSON
document: the GAP of each fold, its mean and spread, and where the predictions of all videos are, each by the fold that
had not seen it. The same command continues: finished folds are not trained again.
"""

from __future__ import annotations

import argparse
import json

from yt8m_ray.cli.arguments import add_document, config_of
from yt8m_ray.cli.command import ray_cluster
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    add_document(parser)
    parser.add_argument("--num-parallel", type=int, help="folds at once (default: what the cluster has CPUs for)")


def run(options: argparse.Namespace) -> None:
    if options.num_parallel is not None and options.num_parallel < 1:
        raise ConfigError(f"--num-parallel: expected at least 1, found {options.num_parallel}")
    config = config_of(options, TrainConfig, "train")
    from yt8m_ray.training.cross_validation import cross_validate, folds_of

    folds = folds_of(config)
    with ray_cluster():
        report = cross_validate(folds, num_parallel=options.num_parallel)
    print(json.dumps(report))
    if report["num_failed"]:
        raise RuntimeError(f"{report['num_failed']} of {len(folds)} folds failed; the same command tries again")

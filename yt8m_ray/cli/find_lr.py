"""yt8m find-lr CONFIG [section.key=value ...] [--min R] [--max R] [--steps N] [--warm-up N] [--output DIR].

The learning-rate range test of a run: a few hundred steps at rates that rise from --min to --max, or until the loss
diverges, in this process without Ray. DIR gets a table and a picture; stdout is one JSON object with the rates at which
the loss falls fastest and a tenth of that at which it is lowest.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from yt8m_ray.cli.arguments import add_document, config_of
from yt8m_ray.config.train import TrainConfig


def configure(parser: argparse.ArgumentParser) -> None:
    add_document(parser)
    parser.add_argument("--min", type=float, default=1e-6, help="the first step's rate (default 1e-6)")
    parser.add_argument("--max", type=float, default=1.0, help="the last step's rate (default 1)")
    parser.add_argument("--steps", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--warm-up", type=int, default=0, help="steps before, at the config's own rate (default 0)")
    parser.add_argument("--output", metavar="DIR", help="a folder (default: output/run.name-find_lr)")


def run(options: argparse.Namespace) -> None:
    config = config_of(options, TrainConfig, "train")
    import torch

    from yt8m_ray.training.lr_range_test import RateRange, find_learning_rate
    from yt8m_ray.training.run.inputs import prepare_inputs, splits_of

    rates = RateRange(options.min, options.max, options.steps, options.warm_up)
    folder = options.output or Path(config.output) / f"{config.run.name}-find_lr"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = prepare_inputs(config, splits_of(config.data))
    print(json.dumps(find_learning_rate(config, run.shards["train"], rates, folder, device=device)))

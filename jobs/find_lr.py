"""python -m jobs.find_lr CONFIG [section.key=value ...] [--min R] [--max R] [--steps N] [--warm-up N] [--output DIR].

The learning-rate range test of a run: a few hundred steps at rates that rise from --min to --max, or until the loss
diverges, in this process without Ray. DIR gets a table and a picture; stdout is one JSON object with the rates at which
the loss falls fastest and a tenth of that at which it is lowest.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from jobs.cli import add_dry_run, exit_if_dry, load_config, new_parser, run_verb
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.training.lr_range_test import RateRange, find_learning_rate
from yt8m_ray.training.run.inputs import prepare_inputs, splits_of


def main(argv: list[str]) -> None:
    parser = new_parser("The learning-rate range test of a run.")
    parser.add_argument("arguments", nargs="+", metavar="CONFIG | key=value", help="a train config, dotted keys")
    parser.add_argument("--min", type=float, default=1e-6, help="the first step's rate (default 1e-6)")
    parser.add_argument("--max", type=float, default=1.0, help="the last step's rate (default 1)")
    parser.add_argument("--steps", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--warm-up", type=int, default=0, help="steps before, at the config's own rate (default 0)")
    parser.add_argument("--output", metavar="DIR", help="a folder (default: output/run.name-find_lr)")
    add_dry_run(parser)
    # Keys may follow the flags.
    options = parser.parse_intermixed_args(argv)
    config = load_config(options.arguments, TrainConfig)
    exit_if_dry(options, config)
    rates = RateRange(options.min, options.max, options.steps, options.warm_up)
    folder = options.output or Path(config.output) / f"{config.run.name}-find_lr"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = prepare_inputs(config, splits_of(config.data))
    print(json.dumps(find_learning_rate(config, run.shards["train"], rates, folder, device=device)))


if __name__ == "__main__":
    run_verb(main)

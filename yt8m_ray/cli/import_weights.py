"""yt8m import-weights CONFIG VARIABLES --output CHECKPOINT [--ema] [section.key=value ...] [--dry-run].

Weights of a published TensorFlow system -> a checkpoint that yt8m evaluate, yt8m predict and yt8m export take.
VARIABLES is an .npz file of arrays by variable name, or the prefix of a TensorFlow checkpoint. The last line of stdout
is the checkpoint's folder.
"""

from __future__ import annotations

import argparse

from yt8m_ray.cli.arguments import add_dry_run, exit_if_dry, split_overrides
from yt8m_ray.cli.command import print_result
from yt8m_ray.config.document import load_document
from yt8m_ray.config.shipped import find_config
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "arguments", nargs="+", metavar="CONFIG VARIABLES | key=value", help="a train config, the variables, keys"
    )
    parser.add_argument("--output", required=True, metavar="CHECKPOINT", help="a folder that does not exist yet")
    parser.add_argument("--ema", action="store_true", help="take the moving averages where there are some")
    add_dry_run(parser)


def run(options: argparse.Namespace) -> None:
    inputs, overrides = split_overrides(options.arguments)
    if len(inputs) != 2:
        raise ConfigError(f"expected CONFIG and VARIABLES, found {', '.join(inputs) or 'neither'}")
    config = load_document(find_config(inputs[0], "train"), TrainConfig, overrides)
    exit_if_dry(options, config)
    from yt8m_ray.interop.import_checkpoint import import_checkpoint

    print_result(import_checkpoint(config, inputs[1], options.output, ema=options.ema))

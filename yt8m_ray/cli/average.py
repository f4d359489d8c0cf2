"""yt8m average CHECKPOINT... --output FOLDER [--weights SHARE...]: the mean of checkpoints of one model.

Weights and batch-norm statistics are averaged; the result is a checkpoint that yt8m evaluate, yt8m predict and
yt8m export take. The last line of stdout is its folder.
"""

from __future__ import annotations

import argparse

from yt8m_ray.cli.command import print_result


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="a checkpoint's folder")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="a folder that does not exist yet")
    parser.add_argument(
        "--weights",
        nargs="+",
        type=float,
        metavar="SHARE",
        help="one a checkpoint, with the sum 1 (default: all alike)",
    )
    parser.add_argument(
        "--ema", action=argparse.BooleanOptionalAction, help="the moving averages of the weights or not"
    )


def run(options: argparse.Namespace) -> None:
    from yt8m_ray.training.weight_averaging import average_checkpoints

    print_result(average_checkpoints(options.checkpoints, options.output, weights=options.weights, ema=options.ema))

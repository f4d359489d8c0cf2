"""python -m jobs.average CHECKPOINT... --output FOLDER [--weights SHARE...]: the mean of checkpoints of one model.

Weights and batch-norm statistics are averaged; the result is a checkpoint that jobs.evaluate, jobs.predict and
jobs.export take. The last line of stdout is its folder.
"""

from __future__ import annotations

import argparse

from jobs.cli import new_parser, print_result, run_verb
from yt8m_ray.training.weight_averaging import average_checkpoints


def main(argv: list[str]) -> None:
    parser = new_parser("Averages the weights of several checkpoints of one model.")
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
    options = parser.parse_args(argv)
    print_result(average_checkpoints(options.checkpoints, options.output, weights=options.weights, ema=options.ema))


if __name__ == "__main__":
    run_verb(main)

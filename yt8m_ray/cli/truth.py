"""yt8m truth GLOB... --output truth.csv [--header]: shards -> a CSV of their labels, `VIDEO_ID,LABEL LABEL`.

The videos keep the order of the sorted shards and of their records; labels ascend. A video without labels is left out,
with a warning; one with an empty list of them has a line without labels. Only ids and labels are read of a record, and
every checksum is compared. The last line of stdout is the CSV.
"""

from __future__ import annotations

import argparse

from yt8m_ray.cli.command import print_result
from yt8m_ray.errors import ConfigError
from yt8m_ray.schema import NUM_CLASSES_2018


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shards", nargs="+", metavar="GLOB", help="paths or globs; local, s3:// or gs://")
    parser.add_argument("--output", required=True, metavar="FILE", help="a .csv file")
    parser.add_argument("--header", action="store_true", help="begin with the line VideoId,Labels")
    parser.add_argument(
        "--num-classes", type=int, default=NUM_CLASSES_2018, help=f"class ids are below (default {NUM_CLASSES_2018})"
    )
    parser.add_argument("--on-corrupt", choices=("fail", "skip"), default="fail", help="what a bad record does")


def run(options: argparse.Namespace) -> None:
    from yt8m_ray.data.pipeline.shards import expand_shards
    from yt8m_ray.inference.predictions.ground_truth import write_truth
    from yt8m_ray.inference.predictions.rows import MOST_CLASSES

    if not options.output.endswith(".csv") or "://" in options.output or not 1 <= options.num_classes <= MOST_CLASSES:
        raise ConfigError(f"--output: expected a local name that ends in .csv; --num-classes: 1 to {MOST_CLASSES}")
    shards = expand_shards(options.shards, key="shards")
    write_truth(
        shards,
        options.output,
        num_classes=options.num_classes,
        has_header=options.header,
        on_corrupt=options.on_corrupt,
    )
    print_result(options.output)

"""yt8m synthesize --output DIR --kind frame|video [--num-shards N ...]: writes synthetic shards.

The last line of stdout is the folder; its `dataset.json` says what is in it and how well it can be learned.
"""

from __future__ import annotations

import argparse

from yt8m_ray.cli.arguments import add_fields, fields_of
from yt8m_ray.cli.command import print_result
from yt8m_ray.data.synthetic.config import SynthesisConfig


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, metavar="DIR", help="a folder that does not exist yet or is empty")
    add_fields(parser, SynthesisConfig)


def run(options: argparse.Namespace) -> None:
    from yt8m_ray.data.pipeline.shards import expand_shards
    from yt8m_ray.data.synthetic.write_shards import synthesize
    from yt8m_ray.metrics import build_metric

    config = fields_of(options, SynthesisConfig)
    pattern = config.from_video_level
    shards = [] if pattern is None else expand_shards(pattern, key="--from-video-level")
    # Given to it, since data/ and metrics/ do not import each other.
    synthesize(config, options.output, source_shards=shards, new_gap=lambda: build_metric("gap"))
    print_result(options.output)

"""python -m jobs.synthesize --output DIR --kind frame|video [--num-shards N ...]: writes synthetic shards.

The last line of stdout is the folder; its `dataset.json` says what is in it and how well it can be learned.
"""

from __future__ import annotations

from jobs.cli import add_fields, fields_of, new_parser, print_result, run_verb
from yt8m_ray.data.pipeline.shards import expand_shards
from yt8m_ray.data.synthetic.video_source import SynthesisConfig
from yt8m_ray.data.synthetic.write_shards import synthesize
from yt8m_ray.metrics import build_metric


def main(argv: list[str]) -> None:
    parser = new_parser("Writes synthetic shards.")
    parser.add_argument("--output", required=True, metavar="DIR", help="a folder that does not exist yet or is empty")
    add_fields(parser, SynthesisConfig)
    options = parser.parse_args(argv)
    config = fields_of(options, SynthesisConfig)
    pattern = config.from_video_level
    shards = [] if pattern is None else expand_shards(pattern, key="--from-video-level")
    # Given to it, since data/ and metrics/ do not import each other.
    synthesize(config, options.output, source_shards=shards, new_gap=lambda: build_metric("gap"))
    print_result(options.output)


if __name__ == "__main__":
    run_verb(main)

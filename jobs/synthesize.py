"""python -m jobs.synthesize --output DIR --kind frame|video [--num-shards N ...]: writes synthetic shards.

The last line of stdout is the folder; its `dataset.json` says what is in it and how well it can be learned.
"""

from __future__ import annotations

import argparse

from jobs.cli import print_result, run_verb
from yt8m_ray.config.document import validate
from yt8m_ray.data.pipeline.shards import expand_shards
from yt8m_ray.data.synthetic.video_source import SynthesisConfig
from yt8m_ray.data.synthetic.write_shards import synthesize
from yt8m_ray.metrics import build_metric


def main(argv: list[str]) -> None:
    """Writes the data set that `argv` describes."""
    parser = argparse.ArgumentParser(prog="python -m jobs.synthesize", description="Writes synthetic shards.")
    parser.add_argument("--output", required=True, metavar="DIR", help="a folder that does not exist yet or is empty")
    for name, field in SynthesisConfig.model_fields.items():
        default = "" if field.default is None else f" (default: {field.default})"
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"{field.description}{default}", metavar="VALUE")
    options = vars(parser.parse_args(argv))
    output = options.pop("output")
    given = {name: value for name, value in options.items() if value is not None}
    config = validate(given, SynthesisConfig, where="command line")
    pattern = config.from_video_level
    shards = [] if pattern is None else expand_shards(pattern, key="--from-video-level")
    synthesize(config, output, source_shards=shards, new_gap=lambda: build_metric("gap"))
    print_result(output)


if __name__ == "__main__":
    run_verb(main)

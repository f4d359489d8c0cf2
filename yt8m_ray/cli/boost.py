"""yt8m boost CHECKPOINT GLOB... --output FILE [--previous FILE] [--max-weight X]: errors -> weights.

Videos whose labels the model ranks badly count more; the next model trains on them with `data.video_weights=FILE`, and
gets weights of its own with `--previous FILE`. FILE is Parquet, with the columns video_id and weight, whose mean is 1.
The last line of stdout is FILE.
"""

from __future__ import annotations

import argparse

from yt8m_ray.cli.command import print_result, ray_cluster
from yt8m_ray.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder of a checkpoint or a bundle")
    parser.add_argument("shards", nargs="+", help="paths or globs of what it was trained on")
    parser.add_argument("--output", required=True, help="a .parquet file")
    parser.add_argument("--previous", help="the weights that the model was trained with (default: all 1)")
    parser.add_argument("--max-weight", type=float, help="larger weights are cut before they are divided by their mean")
    parser.add_argument("--num-workers", type=int, default=1, help="processes that compute (default 1)")
    parser.add_argument("--on-corrupt", choices=("fail", "skip"), default="fail", help="what a bad record does")


def run(options: argparse.Namespace) -> None:
    from yt8m_ray.data.pipeline.shards import expand_shards
    from yt8m_ray.inference.locate import locate_model

    if options.num_workers < 1 or (options.max_weight is not None and not options.max_weight >= 1):
        raise ConfigError("--num-workers and --max-weight: expected at least 1")
    if not options.output.endswith(".parquet") or "://" in options.output:
        raise ConfigError(f"--output: expected a local name that ends in .parquet, found {options.output!r}")
    model, shards = locate_model(options.model), expand_shards(options.shards, key="shards")
    from yt8m_ray.inference.batch.boost import boost_videos
    from yt8m_ray.inference.predictor import check_fit

    # Before Ray starts: what does not fit the model is refused within seconds.
    check_fit(model, shards, labels="required", on_corrupt=options.on_corrupt)
    with ray_cluster():
        boost_videos(
            model,
            shards,
            options.output,
            previous=options.previous,
            max_weight=options.max_weight,
            num_workers=options.num_workers,
            on_corrupt=options.on_corrupt,
        )
    print_result(options.output)

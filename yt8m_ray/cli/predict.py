"""yt8m predict CHECKPOINT_OR_BUNDLE GLOB... --output FILE [--top-k N]: shards -> a file of predictions.

FILE ends in .csv (the Kaggle format), .csv.gz or .parquet; videos keep the order of the sorted shards and of their
records. A video whose scores are NaN is a bad record. Interrupted, the same command goes on behind the shards that were
finished. The last line of stdout is FILE.
"""

from __future__ import annotations

import argparse

from yt8m_ray.cli.command import print_result, ray_cluster
from yt8m_ray.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder of a checkpoint or a bundle")
    parser.add_argument("shards", nargs="+", help="paths or globs; local, s3:// or gs://")
    parser.add_argument("--output", required=True, help="a .csv, .csv.gz or .parquet file")
    parser.add_argument("--top-k", type=int, default=20, help="classes a video (default 20)")
    parser.add_argument("--num-workers", type=int, default=1, help="processes that predict (default 1)")
    parser.add_argument("--on-corrupt", choices=("fail", "skip"), default="fail", help="what a bad record does")
    parser.add_argument("--ema", action=argparse.BooleanOptionalAction, help="the moving average of the weights or not")


def run(options: argparse.Namespace) -> None:
    from yt8m_ray.data.pipeline.shards import expand_shards
    from yt8m_ray.inference.locate import locate_model

    if options.top_k < 1 or options.num_workers < 1:
        raise ConfigError("--top-k and --num-workers: expected at least 1")
    model = locate_model(options.model)
    shards = expand_shards(options.shards, key="shards")
    from yt8m_ray.inference.batch.predict import predict_shards
    from yt8m_ray.inference.predictions.writer import SubmissionWriter
    from yt8m_ray.inference.predictor import check_fit

    # Refuses a name that no format has, before anything starts.
    SubmissionWriter(options.output)
    # Before Ray starts: what does not fit the model is refused within seconds.
    check_fit(model, shards, labels="ignored", on_corrupt=options.on_corrupt)
    with ray_cluster():
        predict_shards(
            model,
            shards,
            options.output,
            top_k=options.top_k,
            num_workers=options.num_workers,
            on_corrupt=options.on_corrupt,
            ema=options.ema,
        )
    print_result(options.output)

"""yt8m distill CHECKPOINT_OR_BUNDLE GLOB... --output DIR [--top N]: shards -> a teacher's scores of them.

A student trains on them with `distillation.labels=DIR`. `--dense` keeps all classes; `--format tfrecord` writes what
the 2018 winner's reader reads. Interrupted, the same command goes on behind the shards that were finished; with more
shards it adds theirs. The last line of stdout is DIR.
"""

from __future__ import annotations

import argparse

from yt8m_ray.cli.command import print_result, ray_cluster
from yt8m_ray.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder of a checkpoint or a bundle: the teacher")
    parser.add_argument("shards", nargs="+", help="paths or globs; local, s3:// or gs://")
    parser.add_argument("--output", required=True, help="a folder")
    entries = parser.add_mutually_exclusive_group()
    entries.add_argument("--top", type=int, help="best classes kept of a video (default 100)")
    entries.add_argument("--dense", action="store_true", help="all classes as float16, 2 bytes each")
    parser.add_argument("--format", choices=("arrow", "tfrecord"), default="arrow", help="tfrecord: as published")
    parser.add_argument("--num-workers", type=int, default=1, help="processes that label (default 1)")
    parser.add_argument("--on-corrupt", choices=("fail", "skip"), default="fail", help="what a bad record does")


def run(options: argparse.Namespace) -> None:
    from yt8m_ray.data.pipeline.shards import expand_shards
    from yt8m_ray.inference.locate import locate_model

    if options.num_workers < 1:
        raise ConfigError("--num-workers: expected at least 1")
    model = locate_model(options.model)
    from yt8m_ray.inference.batch.distill import choose_format, label_shards, local_folder
    from yt8m_ray.inference.predictor import check_fit

    label_format, num_entries = choose_format(options.format, top=options.top, dense=options.dense)
    output, shards = local_folder(options.output), expand_shards(options.shards, key="shards")
    # Before Ray starts: what does not fit the model is refused within seconds.
    check_fit(model, shards, labels="ignored", on_corrupt=options.on_corrupt)
    with ray_cluster():
        label_shards(
            model,
            shards,
            output,
            label_format=label_format,
            num_entries=num_entries,
            num_workers=options.num_workers,
            on_corrupt=options.on_corrupt,
        )
    print_result(options.output)

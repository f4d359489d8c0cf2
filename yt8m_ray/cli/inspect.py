"""yt8m inspect GLOB... [--output DIR] [--write-manifest FILE] [--manifest FILE]: what shards hold, verified.

Every byte is read and every record checked as training would check it, in parallel on Ray. stdout is one JSON object:
num_shards, num_records, num_videos, num_frames (0 at video level), bytes, level, features, classes, frames and labels
per video, keys, compression, `rejected` by cause, `duplicates`, `failures`, `warnings`, videos_per_s.

A failure is a record that training would refuse (causes crc, length, parse, label, and value: a feature that is not a
finite number), a shard that cannot be read (unreadable), each difference from the manifest (manifest). With one of
them, or an id that two videos have, the exit code is 1. A warning is what is no fault, though it may not be meant:
videos without labels among labelled ones, which training and evaluation leave out, empty lists of labels, class ids
listed twice, clips of 0 frames or of more than 300, videos at frame level read as their means, features other than the
published ones, ids under both keys. Class ids need not be in order: in the published shards they are not.

The level and the features are those of the first record that has some; `--features` says them instead. A data set of
2017 needs `--num-classes 4716`. `--write-manifest` writes what was found, good or bad, if every shard could be read.
"""

from __future__ import annotations

import argparse
import json

from yt8m_ray.cli.arguments import add_fields, fields_of
from yt8m_ray.cli.command import ray_cluster
from yt8m_ray.data.inspection.config import InspectionConfig
from yt8m_ray.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shards", nargs="+", metavar="GLOB", help="paths or globs; local, s3:// or gs://")
    add_fields(parser, InspectionConfig)


def run(options: argparse.Namespace) -> None:
    from yt8m_ray.data.inspection.dataset_manifest import load_manifest
    from yt8m_ray.data.inspection.inspect_shards import inspect_shards
    from yt8m_ray.data.pipeline.shards import expand_shards

    config = fields_of(options, InspectionConfig)
    # A manifest that cannot be read is a fault of the command line: exit code 2, before Ray starts.
    try:
        manifest = None if config.manifest is None else load_manifest(config.manifest)
    except (OSError, ValueError) as error:
        raise ConfigError(f"command line: manifest: {error}") from None
    shards = expand_shards(options.shards, key="shards", keep_folders=True)
    with ray_cluster():
        summary = inspect_shards(config, shards, manifest=manifest)
    print(json.dumps(summary.document(), indent=2))
    if not summary.is_sound:
        # Without a message: the document has said what is wrong.
        raise SystemExit(1)

"""yt8m export CONFIG [section.key=value ...] [--dry-run]: checkpoints -> a quantized ensemble bundle.

The last line of stdout is the bundle, a folder or a .tar; the measured GAP goes to stderr.
"""

from __future__ import annotations

import argparse
import sys

from yt8m_ray.cli.arguments import add_document, config_of
from yt8m_ray.cli.command import print_result, ray_cluster
from yt8m_ray.config.export import ExportConfig


def configure(parser: argparse.ArgumentParser) -> None:
    add_document(parser)


def run(options: argparse.Namespace) -> None:
    config = config_of(options, ExportConfig, "export")
    from yt8m_ray.inference.bundle.description import format_table
    from yt8m_ray.inference.ensemble.export import check_records, export, resolve

    config, shards = resolve(config)
    # Before Ray starts: what does not fit the members is refused within seconds.
    check_records(config, shards)
    with ray_cluster():
        path, document = export(config, shards)
    # stdout has the path alone.
    print(format_table(document), file=sys.stderr)
    print_result(path)

"""yt8m download --partition 2/frame/train --output DIR [--shard 1,100 ...]: fetches YouTube-8M's shards.

The same command again continues a download that was interrupted. The last line of stdout is the folder.
"""

from __future__ import annotations

import argparse

from yt8m_ray.cli.arguments import add_fields, fields_of
from yt8m_ray.cli.command import print_result
from yt8m_ray.data.download.config import DownloadConfig


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, metavar="DIR", help="a folder; what is right in it stays")
    add_fields(parser, DownloadConfig)


def run(options: argparse.Namespace) -> None:
    from yt8m_ray.data.download.published_shards import download

    download(fields_of(options, DownloadConfig), options.output)
    print_result(options.output)

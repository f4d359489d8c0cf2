"""python -m jobs.download --partition 2/frame/train --output DIR [--shard 1,100 ...]: fetches YouTube-8M's shards.

The same command again continues a download that was interrupted. The last line of stdout is the folder.
"""

from __future__ import annotations

from jobs.cli import add_fields, fields_of, new_parser, print_result, run_verb
from yt8m_ray.data.download.config import DownloadConfig
from yt8m_ray.data.download.published_shards import download


def main(argv: list[str]) -> None:
    parser = new_parser("Fetches YouTube-8M's shards.")
    parser.add_argument("--output", required=True, metavar="DIR", help="a folder; what is right in it stays")
    add_fields(parser, DownloadConfig)
    options = parser.parse_args(argv)
    download(fields_of(options, DownloadConfig), options.output)
    print_result(options.output)


if __name__ == "__main__":
    run_verb(main)

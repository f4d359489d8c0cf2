"""python -m jobs.download --partition 2/frame/train --output DIR [--shard 1,100 ...]: fetches YouTube-8M's shards.

The same command again continues a download that was interrupted. The last line of stdout is the folder.
"""

from __future__ import annotations

import argparse

from jobs.cli import print_result, run_verb
from yt8m_ray.config.document import validate
from yt8m_ray.data.download.config import DownloadConfig
from yt8m_ray.data.download.published_shards import download


def main(argv: list[str]) -> None:
    """Fetches the shards that `argv` describes."""
    parser = argparse.ArgumentParser(prog="python -m jobs.download", description="Fetches YouTube-8M's shards.")
    parser.add_argument("--output", required=True, metavar="DIR", help="a folder; what is right in it stays")
    for name, field in DownloadConfig.model_fields.items():
        is_required = field.is_required()
        text = field.description if is_required else f"{field.description} (default: {field.default})"
        parser.add_argument(f"--{name.replace('_', '-')}", required=is_required, metavar="VALUE", help=text)
    options = vars(parser.parse_args(argv))
    output = options.pop("output")
    given = {name: value for name, value in options.items() if value is not None}
    download(validate(given, DownloadConfig, where="command line"), output)
    print_result(output)


if __name__ == "__main__":
    run_verb(main)

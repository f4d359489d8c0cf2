"""yt8m configs [KIND/NAME --output FILE]: lists the configs that come along, or copies one to start from.

KIND is train, tune or export. `yt8m train NAME`, `yt8m tune NAME` and `yt8m export NAME` take a config by its name. The
last line of stdout is FILE; without --output it is the config itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from yt8m_ray.cli.command import print_result
from yt8m_ray.config.shipped import Kind, purpose, shipped_configs
from yt8m_ray.errors import ConfigError
from yt8m_ray.wording import nearest


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="KIND/NAME", help="such as train/netvlad; without it: the list")
    parser.add_argument("--output", metavar="FILE", help="a file that does not exist yet")


def run(options: argparse.Namespace) -> None:
    shipped = {f"{kind}/{name}": path for kind in get_args(Kind) for name, path in shipped_configs(kind).items()}
    if options.name is None:
        for name, path in shipped.items():
            print(f"{name:<34}{purpose(path)}")
        return
    if options.name not in shipped:
        raise ConfigError(f"{options.name}: no config of that name{nearest(options.name, shipped)}")
    text = shipped[options.name].read_text(encoding="utf-8")
    if options.output is None:
        print(text, end="")
        return
    if Path(options.output).exists():
        raise ConfigError(f"--output: {options.output} exists already")
    Path(options.output).write_text(text, encoding="utf-8")
    print_result(options.output)

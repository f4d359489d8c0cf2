"""yt8m report RUN_OR_CHECKPOINT [--output DIR]: writes the report of a run's best checkpoint again.

The last line of stdout is the path of report.html; report.md and the pictures lie beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from yt8m_ray.cli.command import print_result


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN_OR_CHECKPOINT", help="a folder")
    parser.add_argument("--output", metavar="DIR", help="default: report, in the run's folder")


def run(options: argparse.Namespace) -> None:
    from yt8m_ray.training.run.run_report import write_report

    print_result(write_report(Path(options.path).absolute(), options.output))

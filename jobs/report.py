"""python -m jobs.report RUN_OR_CHECKPOINT [--output DIR]: writes the report of a run's best checkpoint again.

The last line of stdout is the path of report.html; report.md and the pictures lie beside it.
"""

from __future__ import annotations

from pathlib import Path

from jobs.cli import new_parser, print_result, run_verb
from yt8m_ray.training.run.run_report import write_report


def main(argv: list[str]) -> None:
    parser = new_parser("Writes the report of a run again.")
    parser.add_argument("path", metavar="RUN_OR_CHECKPOINT", help="a folder")
    parser.add_argument("--output", metavar="DIR", help="default: report, in the run's folder")
    options = parser.parse_args(argv)
    print_result(write_report(Path(options.path).absolute(), options.output))


if __name__ == "__main__":
    run_verb(main)

"""python -m jobs.export CONFIG [section.key=value ...] [--dry-run]: checkpoints -> a quantized ensemble bundle.

The last line of stdout is the bundle, a folder or a .tar; the measured GAP goes to stderr.
"""

from __future__ import annotations

import sys

from jobs.cli import parse_document, print_result, ray_cluster, run_verb
from yt8m_ray.config.export import ExportConfig
from yt8m_ray.inference.bundle.description import format_table
from yt8m_ray.inference.ensemble.export import check_records, export, resolve


def main(argv: list[str]) -> None:
    config = parse_document(argv, ExportConfig, description="Quantizes checkpoints into one measured ensemble bundle.")
    config, shards = resolve(config)
    # Before Ray starts: what does not fit the members is refused within seconds.
    check_records(config, shards)
    with ray_cluster():
        path, document = export(config, shards)
    # stdout has the path alone.
    print(format_table(document), file=sys.stderr)
    print_result(path)


if __name__ == "__main__":
    run_verb(main)

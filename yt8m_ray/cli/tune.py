"""yt8m tune CONFIG [key=value ...] [--dry-run [--samples N]] [--retrain] [--register NAME[@ALIAS]].

Searches hyper-parameters with one training run a trial, or continues a search. --dry-run prints the resolved config and
the first N configurations, each a YAML document; --retrain trains the best one at full length; --register registers it
in MLflow. The last line of stdout is the folder `best` of the search: config.yaml and checkpoint/.
"""

from __future__ import annotations

import argparse

from yt8m_ray.cli.arguments import load_config
from yt8m_ray.cli.command import print_result, ray_cluster
from yt8m_ray.config.document import to_yaml
from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.config.yaml_text import dump_yaml

DEFAULT_ALIAS = "best"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs="+", metavar="CONFIG | key=value", help="a tune config, dotted keys")
    parser.add_argument("--dry-run", action="store_true", help="print the config and the first samples, and exit")
    parser.add_argument("--samples", type=int, default=5, metavar="N", help="how many (default 5)")
    parser.add_argument("--retrain", action="store_true", help="train the best configuration at full length")
    parser.add_argument("--register", metavar="NAME[@ALIAS]", help=f"in MLflow (default alias: {DEFAULT_ALIAS})")


def run(options: argparse.Namespace) -> None:
    config = load_config(options.arguments, TuneConfig, "tune")
    if options.dry_run:
        from yt8m_ray.tuning.preview import preview

        print("---\n".join([to_yaml(config), *map(dump_yaml, preview(config, options.samples))]), end="")
        return
    from yt8m_ray.tracking.models import check_names
    from yt8m_ray.training.run.inputs import check_records, splits_of
    from yt8m_ray.tuning import winner
    from yt8m_ray.tuning.search import search

    name, _, alias = (options.register or "").partition("@")
    alias = alias or DEFAULT_ALIAS
    # Before the search, which may take days.
    if options.register is not None:
        check_names(name, alias)
    check_records(config.base, splits_of(config.data))
    with ray_cluster():
        result = search(config)
        if options.retrain:
            winner.retrain(result.folder)
        if options.register is not None:
            winner.register(result.folder, result.tracking_uri, result.mlflow_run_id, name=name, alias=alias)
    print_result(result.folder / winner.BEST_FOLDER)

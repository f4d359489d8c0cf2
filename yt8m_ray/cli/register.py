"""yt8m register BUNDLE --name NAME [--alias ALIAS] [--uri URI]: a bundle -> a version of an MLflow model.

MLflow keeps it as a pyfunc model: `mlflow.pyfunc.load_model("models:/NAME@ALIAS")` loads it and `mlflow models serve`
serves it. A bundle that its export logged already is not copied again; called once more, only the alias moves. The last
line of stdout is models:/NAME@ALIAS.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from yt8m_ray.cli.command import print_result


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a folder or a .tar, local or s3://")
    parser.add_argument("--name", required=True, help="of the registered model, made if it is missing")
    parser.add_argument("--alias", default="champion", help="what points to it from now on (default champion)")
    parser.add_argument("--uri", help="MLflow's server or store (default: the mlflow.db beside BUNDLE)")
    parser.add_argument("--experiment", default="yt8m_ray", help="of the bundle's run (default yt8m_ray)")


def run(options: argparse.Namespace) -> None:
    from yt8m_ray.inference.mlflow_model.registration import register_bundle, store_beside
    from yt8m_ray.tracking.models import check_names

    # Before the bundle is copied.
    check_names(options.name, options.alias)
    uri = options.uri or store_beside(Path(options.bundle))
    register_bundle(options.bundle, uri, name=options.name, alias=options.alias, experiment=options.experiment)
    print_result(f"models:/{options.name}@{options.alias}")

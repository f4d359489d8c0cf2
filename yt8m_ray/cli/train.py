"""yt8m train CONFIG [section.key=value ...] [--dry-run]: trains, or continues, one run.

The last line of stdout is the best checkpoint's folder.
"""

from __future__ import annotations

import argparse

from yt8m_ray.cli.arguments import add_document, config_of
from yt8m_ray.cli.command import print_result, ray_cluster
from yt8m_ray.config.train import TrainConfig


def configure(parser: argparse.ArgumentParser) -> None:
    add_document(parser)


def run(options: argparse.Namespace) -> None:
    config = config_of(options, TrainConfig, "train")
    from yt8m_ray.training.driver.trainer import fit
    from yt8m_ray.training.run.inputs import check_records, splits_of

    # Before Ray starts: what does not fit the model is refused within seconds.
    check_records(config, splits_of(config.data))
    with ray_cluster():
        result = fit(config)
    print_result(result.place)

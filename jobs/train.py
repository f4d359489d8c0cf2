"""python -m jobs.train CONFIG [section.key=value ...] [--dry-run]: trains, or continues, one run.

The last line of stdout is the best checkpoint's folder.
"""

from __future__ import annotations

from jobs.cli import parse_document, print_result, ray_cluster, run_verb
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.training.driver.trainer import fit
from yt8m_ray.training.run.inputs import check_records, splits_of


def main(argv: list[str]) -> None:
    config = parse_document(
        argv, TrainConfig, description="Trains one run on Ray; its checkpoints go to output/run.name."
    )
    # Before Ray starts: what does not fit the model is refused within seconds.
    check_records(config, splits_of(config.data))
    with ray_cluster():
        result = fit(config)
    print_result(result.place)


if __name__ == "__main__":
    run_verb(main)

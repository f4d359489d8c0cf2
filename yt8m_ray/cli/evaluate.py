"""yt8m evaluate CHECKPOINT_OR_BUNDLE data.test=GLOB [section.key=value ...]: exact metrics over every video.

stdout is one JSON object: num_videos, gap, hit_at_1, perr, mean_ap, mean_ap_num_classes, loss, num_unlabelled (videos
without labels, which are left out; none with labels is an error), num_rejected, rejected by cause, videos_per_s.
With --watch the input is the folder of a run: a line for each checkpoint, as it appears, until the run has ended.
"""

from __future__ import annotations

import argparse
import json
import sys

from yt8m_ray.cli.arguments import add_dry_run, exit_if_dry, split_overrides
from yt8m_ray.cli.command import ray_cluster
from yt8m_ray.config.document import override, parse_override
from yt8m_ray.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "arguments", nargs="+", metavar="CHECKPOINT_OR_BUNDLE | key=value", help="a folder, then dotted keys"
    )
    modes = parser.add_mutually_exclusive_group()
    add_dry_run(modes)
    modes.add_argument("--watch", action="store_true", help="score the checkpoints of a run's folder as they appear")


def run(options: argparse.Namespace) -> None:
    inputs, overrides = split_overrides(options.arguments)
    if len(inputs) != 1:
        raise ConfigError(f"one CHECKPOINT_OR_BUNDLE is expected, found {', '.join(inputs) or 'none'}")
    changes = dict(map(parse_override, overrides))
    if options.watch:
        from yt8m_ray.inference.batch.evaluate import watch

        # Inside of `ray_cluster` it is stderr.
        stdout = sys.stdout
        with ray_cluster():
            for scores in watch(inputs[0], changes):
                print(json.dumps(scores), file=stdout, flush=True)
        return
    from yt8m_ray.inference.evaluation_config import evaluation_config
    from yt8m_ray.inference.locate import locate_model

    model = locate_model(inputs[0])
    config = override(evaluation_config(model), changes)
    exit_if_dry(options, config)
    from yt8m_ray.inference.batch.evaluate import evaluate_shards, shards_of

    shards = shards_of(model, config)
    with ray_cluster():
        metrics = evaluate_shards(model, shards, config)
    print(json.dumps(metrics))

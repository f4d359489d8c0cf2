"""python -m jobs.import_weights CONFIG VARIABLES --output CHECKPOINT [--ema] [section.key=value ...] [--dry-run].

Weights of a published TensorFlow system -> a checkpoint that jobs.evaluate, jobs.predict and jobs.export take.
VARIABLES is an .npz file of arrays by variable name, or the prefix of a TensorFlow checkpoint. The last line of stdout
is the checkpoint's folder.
"""

from __future__ import annotations

from jobs.cli import add_dry_run, exit_if_dry, new_parser, print_result, run_verb, split_overrides
from yt8m_ray.config.document import load_document
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.interop.import_checkpoint import import_checkpoint


def main(argv: list[str]) -> None:
    parser = new_parser("Brings the weights of a published TensorFlow system along.")
    parser.add_argument(
        "arguments", nargs="+", metavar="CONFIG VARIABLES | key=value", help="a train config, the variables, keys"
    )
    parser.add_argument("--output", required=True, metavar="CHECKPOINT", help="a folder that does not exist yet")
    parser.add_argument("--ema", action="store_true", help="take the moving averages where there are some")
    add_dry_run(parser)
    # Keys may follow the flags.
    options = parser.parse_intermixed_args(argv)
    inputs, overrides = split_overrides(options.arguments)
    if len(inputs) != 2:
        raise ConfigError(f"expected CONFIG and VARIABLES, found {', '.join(inputs) or 'neither'}")
    config = load_document(inputs[0], TrainConfig, overrides)
    exit_if_dry(options, config)
    print_result(import_checkpoint(config, inputs[1], options.output, ema=options.ema))


if __name__ == "__main__":
    run_verb(main)

"""yt8m merge FILE... [--weights W...] [--output FILE] [--score TRUTH] [--correlation]: means of predictions.

Each FILE is a CSV of the Kaggle format, with quotes or without, a .parquet of ours, or JSON objects with video_id,
class_indexes, predictions, one a line or all in an array; what it holds decides, not its name. Text may be in gzip or
in a zip of one file, and begin with a byte order mark; so may TRUTH. FILE alone is converted or scored.

The scores of a class are averaged, one that a file does not list counting 0; with --geometric it is the product of
max(1e-4, score) ** weight, one that is not listed counting 1e-4. Weights are relative; without them all files count
alike; a file with weight 0 is not read. A video that some files lack is named, and gets the mean of the others. Of
equal scores the lower class id comes first.

--score prints gap (Kaggle's), per_video_ap (the mean over labelled videos of each one's average precision, divided by
the number of its labels: what older tools call GAP), hit_at_1, perr (null where a video has more labels than classes
listed), num_videos, missing and unknown; videos of the truth that are not predicted count, predictions for others do
not. A truth without any label is an error. --correlation prints the matrix of the files and a table. With --output the
last line of stdout is its path, and the JSON document goes to stderr; without it, stdout is the document.
"""

from __future__ import annotations

import argparse
import json
import sys

from yt8m_ray.cli.command import print_result
from yt8m_ray.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="a file of predictions")
    parser.add_argument("--output", metavar="FILE", help="a .csv, .csv.gz or .parquet file")
    parser.add_argument("--weights", nargs="+", type=float, metavar="W", help="one a file (default: all alike)")
    parser.add_argument("--geometric", action="store_true", help="the geometric mean instead of the arithmetic one")
    parser.add_argument("--top-k", type=int, default=20, help="most classes a video (default 20)")
    parser.add_argument("--missing", choices=("average", "fail"), default="average", help="what a missing video does")
    parser.add_argument("--score", metavar="TRUTH", help="a CSV of ground truth, such as yt8m truth writes")
    parser.add_argument("--correlation", action="store_true", help="how alike the files are")


def run(options: argparse.Namespace) -> None:
    from yt8m_ray.inference.predictions.merge import merge_predictions

    if options.top_k < 1:
        raise ConfigError("--top-k: expected at least 1")
    if not (options.output or options.score or options.correlation):
        raise ConfigError("nothing to do: give --output, --score or --correlation")
    document = merge_predictions(
        options.files,
        output=options.output,
        weights=options.weights,
        mean="geometric" if options.geometric else "arithmetic",
        top_k=options.top_k,
        missing=options.missing,
        truth=options.score,
        has_correlation=options.correlation,
    )
    # The last line of stdout is the path, if there is one: the document then goes elsewhere.
    if document:
        print(json.dumps(document), file=sys.stderr if options.output else sys.stdout)
    if options.output:
        print_result(options.output)

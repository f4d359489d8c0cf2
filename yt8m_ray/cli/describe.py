"""yt8m describe BUNDLE [--json] [--tensors]: what a bundle says of itself, without loading its weights.

BUNDLE is a folder or a .tar, here or in an object store; every file is compared with its hash first. stdout is a page:
version, GAP before and after, sizes, input, licence, and where each member is from; or one JSON document.
"""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a folder or a .tar, local or s3://")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a page")
    parser.add_argument("--tensors", action="store_true", help="each tensor too, with its type and bytes")


def run(options: argparse.Namespace) -> None:
    from yt8m_ray.inference.bundle.description import describe, to_json, to_text

    to_form = to_json if options.json else to_text
    print(to_form(describe(options.bundle), with_tensors=options.tensors))

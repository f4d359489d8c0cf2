"""The prediction service under load, under faults and under clients that nobody wants, on loopback.

    python benchmarks/serving.py overhead [--bundles netvlad,moe] [--rounds 5] [--seconds 10]
    python benchmarks/serving.py peers    [--bundles netvlad,moe] [--rounds 5] [--seconds 20] [--connections 16]
    python benchmarks/serving.py faults   [--bundle moe] [--count 20000] [--share 0.35] [--kill-every-s 60]
    python benchmarks/serving.py overload [--bundle netvlad] [--times 5] [--seconds 60]
    python benchmarks/serving.py fuzz     [--binary 20000] [--json 5000] [--cases 5000]
    python benchmarks/serving.py slow     [--only TEXT]
    python benchmarks/serving.py costly   [--bundle moe] [--clients 8] [--seconds 60]

Each starts a Ray of its own with `serve run` and a copy of serve/config.yaml, random weights, and `--proxy python` or
`haproxy`; it ends with what it started, also when it fails. One JSON document on stdout; progress goes to stderr. The
ports of Ray's HAProxy are fixed, and so are some others: where another Ray runs, give it a network of its own,

    unshare --pid --fork --mount-proc --kill-child --net bash -c 'ip link set lo up; exec "$@"' _ python ...
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

import uvloop

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as serve/config.yaml does, for all sides

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from benchmarks.service.bundles import MODELS
from benchmarks.service.costly import costly
from benchmarks.service.deployed import PROXIES
from benchmarks.service.faults import faults, overload
from benchmarks.service.fuzz import fuzz
from benchmarks.service.slow import slow
from benchmarks.service.speed import bare, overhead, peers

WHAT = {function.__name__: function for function in (overhead, bare, peers, faults, overload, fuzz, slow, costly)}


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    if unknown := set(kinds) - set(MODELS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}; valid: {', '.join(MODELS)}")
    return kinds


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_subparsers(dest="what", required=True)
    parsers = {name: what.add_parser(name, help=function.__doc__) for name, function in WHAT.items()}
    for name, subparser in parsers.items():
        subparser.add_argument("--frames", type=int, default=300, help="of each video")
        subparser.add_argument("--videos", type=int, default=16, help="different ones")
        if name != "bare":
            subparser.add_argument("--proxy", choices=PROXIES, default="python")
    for name, rounds, seconds, connections in (("overhead", 5, 10, 64), ("peers", 5, 20, 16)):
        parsers[name].add_argument("--bundles", type=_kinds, default=["netvlad", "moe"])
        parsers[name].add_argument("--rounds", type=int, default=rounds)
        parsers[name].add_argument("--seconds", type=float, default=seconds, help="of each measurement")
        parsers[name].add_argument("--connections", type=int, default=connections)
        parsers[name].add_argument("--cores", default="", help="those of the servers, such as 1; all by default")
    parsers["bare"].add_argument("bundle", type=Path)
    parsers["bare"].add_argument("--seconds", type=float, default=10)
    _add_faults(parsers["faults"])
    _add_overload(parsers["overload"])
    for name, count in (("binary", 20_000), ("json", 5_000), ("cases", 5_000)):
        parsers["fuzz"].add_argument(f"--{name}", type=int, default=count, help="0 leaves it out")
    parsers["fuzz"].add_argument("--seed", type=int, default=0)
    parsers["slow"].add_argument("--only", default="", help="part of the name of a kind of client")
    parsers["costly"].add_argument("--bundle", choices=MODELS, default="moe")
    parsers["costly"].add_argument("--clients", type=int, default=8, help="that send what costs much")
    parsers["costly"].add_argument("--seconds", type=float, default=60, help="of each measurement")
    return parser.parse_args()


def _add_faults(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", choices=MODELS, default="moe")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--share", type=float, default=0.35, help="of the capacity of two replicas")
    parser.add_argument("--seconds", type=float, default=20, help="of the measurement of the capacity")
    parser.add_argument("--kill-every-s", type=float, default=60)
    parser.add_argument("--retries", choices=("both", "without_retries", "with_retries"), default="both")


def _add_overload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", choices=MODELS, default="netvlad")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--times", type=float, default=5, help="the capacity")
    parser.add_argument("--capacity-s", type=float, default=20, help="seconds of the measurement of the capacity")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--recovery-s", type=float, default=15, help="seconds of light load afterwards")


def main() -> None:
    options = parse()
    # Bodies of 351 kB cost a client a third less than in asyncio's loop, and what is measured shares its cores.
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    with tempfile.TemporaryDirectory(prefix="serving") as name:
        found = WHAT[options.what](options, Path(name))
    print(json.dumps(found, indent=None if options.what == "bare" else 1))


if __name__ == "__main__":
    main()

"""yt8m tune-dashboard SEARCH [--port N] [--host ADDRESS]: shows a search, running or ended, in a browser.

SEARCH is its folder. The only line of stdout is the page's address; Ctrl-C ends it, and the search goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import threading
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="SEARCH", help="a folder")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one (default 8080)")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="of this machine (default 127.0.0.1)")


def run(options: argparse.Namespace) -> None:
    from yt8m_ray.tuning.dashboard import start_dashboard

    with contextlib.closing(start_dashboard(Path(options.path), port=options.port, host=options.host)) as dashboard:
        print(dashboard.url, flush=True)
        threading.Event().wait()

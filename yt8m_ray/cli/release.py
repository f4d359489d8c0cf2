"""yt8m release status | promote NAME | canary [NAME] --share S | finish | rollback: which model answers.

Asks a running service, all of whose replicas change together or not at all. NAME is one of `user_config.models` in
serve/config.yaml, or the number of a version where the service follows an alias of MLflow. `canary NAME --share 0.1`
lets it answer a tenth of the requests, `canary --share 0.5` half of them, `--share 0` none, and `finish` all. The token
of an operator is the environment variable YT8M_ADMIN_TOKEN, or the contents of --token-file. stdout is one JSON
document: the releases, after a change. A refusal is exit code 1, and nothing was changed.
"""

from __future__ import annotations

import argparse
import json
import os

from yt8m_ray.errors import ConfigError
from yt8m_ray.local_files import read_document

# What each change needs, may take, and how it is written.
_CHANGES = {
    "status": (set(), set(), "status"),
    "promote": ({"model"}, {"model"}, "promote NAME"),
    "canary": ({"share"}, {"model", "share"}, "canary [NAME] --share S"),
    "finish": (set(), set(), "finish"),
    "rollback": (set(), set(), "rollback"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=tuple(_CHANGES))
    parser.add_argument("name", nargs="?", metavar="NAME", help="promote needs it; canary without it: the one there is")
    parser.add_argument("--share", type=float, help="canary: of the requests, 0 to 1; 0 ends it")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service (default %(default)s)")
    parser.add_argument("--token-file", metavar="FILE", help="instead of the environment variable YT8M_ADMIN_TOKEN")
    # The service itself waits 600 s for its replicas to load a model.
    parser.add_argument("--timeout-s", type=float, default=660, help="to wait for the end of a change (default 660)")


def run(options: argparse.Namespace) -> None:
    from yt8m_ray.cli.service_client import ServiceClient

    what, fields = options.what, {"model": options.name, "share": options.share}
    given = {key: value for key, value in fields.items() if value is not None}
    needed, taken, usage = _CHANGES[what]
    if not needed <= set(given) <= taken:
        raise ConfigError(f"expected `release {usage}`, found {what} with {' and '.join(given) or 'nothing else'}")
    token = read_document(options.token_file).decode() if options.token_file else os.environ.get("YT8M_ADMIN_TOKEN", "")
    if not token.strip():
        raise ConfigError("expected the token of an operator in YT8M_ADMIN_TOKEN or --token-file, found none")
    client = ServiceClient(options.url, token.strip(), timeout_s=options.timeout_s)
    # To finish a canary is to promote it: a promotion without a name.
    change = "promote" if what == "finish" else what
    print(json.dumps(client.releases() if what == "status" else client.change(change, given), indent=2))

"""python -m jobs.release status | promote NAME | canary [NAME] --share S | finish | rollback: which model answers.

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

from jobs.cli import new_parser, run_verb
from yt8m_ray.cli.service_client import ServiceClient
from yt8m_ray.errors import ConfigError
from yt8m_ray.local_files import read_document


def main(argv: list[str]) -> None:
    options = _parser().parse_args(argv)
    token = read_document(options.token_file).decode() if options.token_file else os.environ.get("YT8M_ADMIN_TOKEN", "")
    if not token.strip():
        raise ConfigError("expected the token of an operator in YT8M_ADMIN_TOKEN or --token-file, found none")
    client = ServiceClient(options.url, token.strip(), timeout_s=options.timeout_s)
    if options.what == "status":
        releases = client.releases()
    else:
        fields = {"model": getattr(options, "name", None), "share": getattr(options, "share", None)}
        # To finish a canary is to promote it: a promotion without a name.
        what = "promote" if options.what == "finish" else options.what
        releases = client.change(what, {key: value for key, value in fields.items() if value is not None})
    print(json.dumps(releases, indent=2))


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--url", default="http://127.0.0.1:8000", help="of the service (default %(default)s)")
    common.add_argument("--token-file", metavar="FILE", help="instead of the environment variable YT8M_ADMIN_TOKEN")
    # The service itself waits 600 s for its replicas to load a model.
    common.add_argument("--timeout-s", type=float, default=660, help="to wait for the end of a change (default 660)")
    parser = new_parser("Says or changes which model answers.")
    verbs = parser.add_subparsers(dest="what", required=True, metavar="status|promote|canary|finish|rollback")
    verb = {name: verbs.add_parser(name, parents=[common]) for name in ("status", "finish", "rollback")}
    verb["promote"] = verbs.add_parser("promote", parents=[common])
    verb["promote"].add_argument("name", metavar="NAME", help="of the model that all requests go to")
    verb["canary"] = verbs.add_parser("canary", parents=[common])
    verb["canary"].add_argument("name", nargs="?", metavar="NAME", help="without it the canary that there is")
    verb["canary"].add_argument("--share", type=float, required=True, help="of the requests, 0 to 1; 0 ends it")
    return parser


if __name__ == "__main__":
    run_verb(main)

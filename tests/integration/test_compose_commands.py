"""The commands inside docker-compose.yml, parsed by the programs that they call; nothing is started."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import mlflow.cli
import pytest
import ray.scripts.scripts
import yaml

from serve.keep_deployed import make_parser

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS: dict[str, click.Group] = {
    "ray": ray.scripts.scripts.cli,
    "mlflow": mlflow.cli.cli,
}


def commands() -> dict[str, str]:
    """Returns the command of each service of our image, with the defaults of its variables."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    found = {}
    for name, service in services.items():
        if service["image"] != "yt8m-ray":
            continue
        command = service["command"] if isinstance(service["command"], str) else service["command"][-1]
        found[name] = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", command.split(" && exec ")[-1])
    return found


@pytest.mark.parametrize("service", ["head", "mlflow", "worker"])
def test_the_program_accepts_the_command_of_a_service(service: str) -> None:
    program, verb, *arguments = shlex.split(commands()[service])

    command = PROGRAMS[program].commands[verb]
    options: dict[str, Any] = command.make_context(verb, arguments).params

    assert options


def test_the_deployment_keeps_the_config_of_the_containers_on_the_head() -> None:
    assert sorted(commands()) == ["deploy", "head", "mlflow", "worker"]
    python, _, module, *arguments = shlex.split(commands()["deploy"])

    options = make_parser().parse_args(arguments)

    assert (python, module) == ("python", "serve.keep_deployed")
    assert (options.address, str(options.config)) == ("http://head:8265", "/tmp/config.yaml")

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
import ray.serve.scripts
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS: dict[str, click.Group] = {
    "ray": ray.scripts.scripts.cli,
    "serve": ray.serve.scripts.cli,
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
        found[name] = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", command.split(" && ")[-1])
    return found


@pytest.mark.parametrize("service", sorted(commands()))
def test_the_program_accepts_the_command_of_a_service(service: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.touch()
    program, verb, *arguments = shlex.split(commands()[service].replace("/tmp/config.yaml", str(config)))

    command = PROGRAMS[program].commands[verb]
    options: dict[str, Any] = command.make_context(verb, arguments).params

    assert options

"""What MLflow's page shows as a run's source: the command, who typed it, and the commit of the working folder."""

from __future__ import annotations

import contextlib
import functools
import getpass
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

Kind = Literal["training", "search", "trial", "export", "evaluation", "registration"]

# What made a run.
KIND_TAG = "yt8m_ray.kind"

_GIT_TIMEOUT_S = 5.0


def source_tags(kind: Kind) -> dict[str, str]:
    """Returns the tags of a run that this process makes."""
    return {KIND_TAG: kind, **_process_tags()}


def command_line(arguments: Sequence[str]) -> str:
    """Returns the command of a process as a shell takes it, from its `sys.orig_argv`."""
    python, *rest = arguments
    # An installed command is a script, which Python runs: nobody typed Python's name.
    is_script = bool(rest) and Path(rest[0]).suffix == "" and Path(rest[0]).is_file()
    program, *others = rest if is_script else [python, *rest]
    return shlex.join([Path(program).name, *others])


@functools.cache
def _process_tags() -> Mapping[str, str]:
    # Of any other type than "JOB" the page shows what follows the last slash, which is the end of some path.
    tags = {"mlflow.source.name": command_line(sys.orig_argv), "mlflow.source.type": "JOB"}
    with contextlib.suppress(OSError, KeyError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # no git, or no checkout
        command = ["git", "rev-parse", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_TIMEOUT_S)
        tags["mlflow.source.git.commit"] = found.stdout.strip()
    return tags

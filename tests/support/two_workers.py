"""Two processes of one gloo group, for tests whose own file is also the program of a worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_two_workers(script: str, folder: Path) -> None:
    """Runs `python script RANK folder` for ranks 0 and 1 at once, and returns when both have ended well."""
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen([sys.executable, script, str(rank), str(folder)], env=environment) for rank in range(2)]
    try:
        assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()

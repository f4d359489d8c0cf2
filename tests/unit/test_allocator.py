"""Memory for tensors: what is freed is used again, without the kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading, torch
from yt8m_ray.allocator import keep_freed_memory

def faults_a_step():
    counts = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.zeros(10 * 2**20).mul(2)  # 40 MB twice: 20,480 pages
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(counts)

if sys.argv[1] == "keep":
    keep_freed_memory()
found = [faults_a_step()]
thread = threading.Thread(target=lambda: found.append(faults_a_step()))
thread.start()
thread.join()
print(*found)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
@pytest.mark.parametrize(("mode", "few"), [("keep", True), ("leave", False)])
def test_large_tensors_get_the_pages_of_freed_ones_on_any_thread(mode: str, few: bool) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)

    faults = list(map(int, done.stdout.split()))
    assert len(faults) == 2
    assert all((count < 2000) is few for count in faults), faults

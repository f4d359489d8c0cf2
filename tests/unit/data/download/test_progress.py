"""What is here and what was received, as the lines of a download tell."""

from __future__ import annotations

import contextlib
import time

import pytest

from yt8m_ray.data import progress
from yt8m_ray.data.download.progress import Progress


def test_bytes_of_an_earlier_call_are_here_but_were_not_received(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.02)

    def wait_for(state: str) -> None:
        while not (caplog.messages and caplog.messages[-1].startswith(state)):
            time.sleep(0.01)

    with caplog.at_level("INFO"), contextlib.closing(Progress(3)) as download:
        download.report("a", 1000, 4000)
        wait_for("0/3 files, 1.00kB of about 12.0kB")
        download.report("a", 3000, 4000)
        wait_for("0/3 files, 3.00kB of about 12.0kB")
        download.report("b", 0, 2000)
        wait_for("0/3 files, 3.00kB of about 9.00kB")
        download.report("a", 0, 4000)  # from the first byte again
        wait_for("0/3 files, 0.00B of about 9.00kB")
        download.report("a", 500, 4000)
        wait_for("0/3 files, 500B of about 9.00kB")
        download.finish_file()
        wait_for("1/3 files, 500B of about 9.00kB")

    assert download.num_received == 2500

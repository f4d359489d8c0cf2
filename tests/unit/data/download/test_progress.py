"""The lines of a download without a terminal."""

from __future__ import annotations

import contextlib

import pytest

from yt8m_ray.data import progress
from yt8m_ray.data.download.progress import Progress


def test_bytes_of_an_earlier_call_are_here_but_were_not_received(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LINE_INTERVAL_S", 1e-9)
    with caplog.at_level("INFO"), contextlib.closing(Progress(3)) as download:
        download.report("a", 1000, 4000)
        download.report("a", 3000, 4000)
        download.report("b", 0, 2000)
        download.report("a", 0, 4000)  # from the first byte again
        download.report("a", 500, 4000)
        download.finish_file()

    assert download.num_received == 2500
    states = [message.split("B, ")[0] for message in caplog.messages]
    assert states == [
        "0/3 files, 1.00kB of about 12.0k",
        "0/3 files, 3.00kB of about 12.0k",
        "0/3 files, 3.00kB of about 9.00k",
        "0/3 files, 0.00B of about 9.00k",
        "0/3 files, 500B of about 9.00k",
        "1/3 files, 500B of about 9.00k",
    ]
    assert caplog.messages[0].endswith("?B/s, ETA ?")

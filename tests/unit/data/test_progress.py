"""The lines of a bar where there is no terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest

from yt8m_ray.data import progress

logger = logging.getLogger(__name__)
LINE = "{desc}, {n_fmt}B of {total_fmt}B, ETA {remaining}"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.05)
    with caplog.at_level("INFO"):
        yield


def wait_for_lines(caplog: pytest.LogCaptureFixture, count: int) -> None:
    while len(caplog.messages) < count:
        time.sleep(0.01)


def test_lines_come_also_while_nothing_moves(caplog: pytest.LogCaptureFixture) -> None:
    with progress.progress_bar(logger, LINE) as bar:
        bar.total = 3000
        bar.set_description_str("1/2 files", refresh=False)
        bar.update(1500)
        wait_for_lines(caplog, 3)

    assert {line.partition(", ETA")[0] for line in caplog.messages} == {"1/2 files, 1.50kB of 3.00kB"}


def test_no_line_comes_for_what_is_done_at_once(caplog: pytest.LogCaptureFixture) -> None:
    with progress.progress_bar(logger, LINE, total=10) as bar:
        for _ in range(10):
            bar.update(1)

    assert caplog.messages == []


def test_work_without_a_measure_says_since_when_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with progress.at_work(logger, "starting"):
        wait_for_lines(caplog, 2)

    assert set(caplog.messages) == {"starting, 0 s so far"}

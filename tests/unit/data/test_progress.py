"""The lines of a bar where there is no terminal."""

from __future__ import annotations

import logging

import pytest

from yt8m_ray.data import progress

logger = logging.getLogger(__name__)
LINE = "{desc}, {n_fmt}B of {total_fmt}B, ETA {remaining}"


def test_a_line_comes_with_the_first_bytes_after_the_interval(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LINE_INTERVAL_S", 1e-9)
    with caplog.at_level("INFO"), progress.byte_bar(logger, LINE) as bar:
        bar.total = 3000
        bar.set_description_str("1/2 files", refresh=False)
        assert caplog.messages == []
        bar.update(1500)

    (line,) = caplog.messages
    assert line == "1/2 files, 1.50kB of 3.00kB, ETA 00:00"


def test_before_the_interval_a_line_comes_only_by_a_refresh(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), progress.byte_bar(logger, LINE, total=10) as bar:
        bar.set_description_str("2/2 files", refresh=False)
        bar.update(10)
        assert caplog.messages == []
        bar.refresh()

    assert [message.partition(", ETA")[0] for message in caplog.messages] == ["2/2 files, 10.0B of 10.0B"]

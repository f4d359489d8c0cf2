from __future__ import annotations

import math
import resource
from pathlib import Path

import pytest

from yt8m_ray.tracking.history import HISTORY_FILE, History, read_curves, read_history


def test_finite_values_come_back_with_their_steps(tmp_path: Path) -> None:
    History(tmp_path).append({"train/loss": 0.5, "train/gap": math.nan}, 3, {"epochs": 0.5})

    ((entry,), end) = read_history(tmp_path)

    assert (entry.step, entry.metrics, entry.progress) == (3, {"train/loss": 0.5}, {"epochs": 0.5})
    assert end == (tmp_path / HISTORY_FILE).stat().st_size
    assert read_history(tmp_path, end) == ([], end)


def test_a_folder_without_history_has_none(tmp_path: Path) -> None:
    assert read_history(tmp_path) == ([], 0)
    assert read_curves(tmp_path) == {}


def test_a_line_that_is_being_written_is_left_for_the_next_look(tmp_path: Path) -> None:
    History(tmp_path).append({"train/loss": 0.5}, 1)
    whole = (tmp_path / HISTORY_FILE).read_bytes()
    (tmp_path / HISTORY_FILE).write_bytes(whole + whole[:-9])

    entries, end = read_history(tmp_path)

    assert (len(entries), end) == (1, len(whole))


def test_a_line_that_a_crash_cut_short_is_passed_over(tmp_path: Path) -> None:
    History(tmp_path).append({"train/loss": 0.5}, 1)
    whole = (tmp_path / HISTORY_FILE).read_bytes()
    (tmp_path / HISTORY_FILE).write_bytes(whole[:-9])

    History(tmp_path).append({"train/loss": 0.25}, 2)

    assert [entry.step for entry in read_history(tmp_path)[0]] == [2]


def test_a_long_history_is_read_in_parts(tmp_path: Path) -> None:
    history = History(tmp_path)
    for step in range(5000):
        history.append({"train/loss": 0.5}, step)

    steps, offset, num_reads = [], 0, 0
    while True:
        entries, offset = read_history(tmp_path, offset)
        if not entries:
            break
        num_reads += 1
        steps += [entry.step for entry in entries]

    assert steps == list(range(5000))
    assert num_reads > 1


def test_steps_that_were_taken_again_count_the_second_time(tmp_path: Path) -> None:
    history = History(tmp_path)
    for step, loss in [(1, 5.0), (2, 4.0), (3, 3.0), (4, 2.0), (3, 3.5)]:  # killed at 4, continued from 2
        history.append({"train/loss": loss}, step)

    steps, values = read_curves(tmp_path)["train/loss"]

    assert (steps.tolist(), values.tolist()) == ([1, 2, 3], [5.0, 4.0, 3.5])


def test_a_disk_without_room_leaves_a_hole_and_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = History(tmp_path)
    history.append({"train/loss": 0.5}, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / HISTORY_FILE).stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
    try:
        history.append({"train/loss": 0.5}, 2)
        history.append({"train/loss": 0.5}, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    history.append({"train/loss": 0.5}, 4)

    assert [entry.step for entry in read_history(tmp_path)[0]] == [1, 4]
    assert caplog.text.count("have a hole") == 1

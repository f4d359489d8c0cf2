from __future__ import annotations

import io
from pathlib import Path

import pytest

from yt8m_ray.tracking.history import History
from yt8m_ray.training.driver.progress import ProgressBar, describe, is_progress_line

METRICS = {"train/loss": 12.34567, "train/videos_per_s": 1234.5, "train/input_wait_fraction": 0.031}
FAR = {"num_epochs": 5, "epochs": 1.25, "left_s": 3725.0}


def test_a_line_says_how_far_and_how_fast() -> None:
    line = describe(METRICS, 100, FAR)

    assert line == "epoch 2/5  25%  step 100  loss 12.3457  1234 videos/s  input wait 3%  ETA 1:02:05"
    assert is_progress_line(line)


def test_a_line_has_the_gap_of_recent_batches_where_there_is_one() -> None:
    assert "loss 12.3457  GAP 0.6250  1234" in describe({**METRICS, "train/gap": 0.625}, 100, FAR)


@pytest.mark.parametrize(
    ("epochs", "start"), [(0.0, "epoch 1/5   0%"), (1.0, "epoch 1/5 100%"), (5.0, "epoch 5/5 100%")]
)
def test_the_end_of_an_epoch_belongs_to_it(epochs: float, start: str) -> None:
    assert describe(METRICS, 1, {**FAR, "epochs": epochs}).startswith(start)


@pytest.mark.parametrize("line", ["epoch 1/5 validation on 10 videos: GAP 0.5", "a worker was lost", ""])
def test_other_lines_stay_beside_a_bar(line: str) -> None:
    assert not is_progress_line(line)


def test_the_bar_shows_the_latest_line_of_the_history(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.append(METRICS, 1, {**FAR, "epochs": 0.1})  # of an earlier start
    terminal = io.StringIO()
    bar = ProgressBar(tmp_path, terminal)
    bar.update()
    assert terminal.getvalue() == ""

    history.append(METRICS, 100, FAR)
    history.append({"validation/gap": 0.75}, 100)
    history.append(METRICS, 110, FAR)
    bar.update()
    shown = terminal.getvalue().split("\r")[-1]
    bar.close()

    assert shown.startswith("epoch 2/5  step 110  25%|")
    assert "| ETA 1:02:05  loss 12.3457  1234 videos/s  input wait 3%  validation GAP 0.7500" in shown

"""`make demo`: the whole road, and what an impatient user leaves of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import RunVerb, StartVerb
from tests.e2e.processes import Command


def test_ctrl_c_during_the_demo_leaves_nothing_running(start_verb: StartVerb, tmp_path: Path) -> None:
    with start_verb("demo", "--output", str(tmp_path / "demo")) as command:
        # Behind the compilation of the writer's loops, which swallows an interrupt now and then.
        command.wait_until(lambda: "shard 1 of" in command.stderr)
        command.press_ctrl_c()
        outcome = command.wait(timeout_s=30)
        leftovers = command.leftovers()

    assert outcome.code == 130
    assert outcome.stderr.splitlines()[-1] == "interrupted"
    assert "Traceback" not in outcome.stderr
    assert leftovers == []


def test_ctrl_c_before_the_demo_has_begun_is_an_interruption_too(terminal: None, tmp_path: Path) -> None:
    line = (sys.executable, "-m", "jobs.demo", "--output", str(tmp_path / "demo"))
    with Command(*line, folder=tmp_path, environment={"PYTHONPROFILEIMPORTTIME": "1"}) as command:
        command.wait_until(lambda: "| ray." in command.stderr or "torch" in command.stderr)  # being imported
        command.press_ctrl_c()
        outcome = command.wait(timeout_s=30)

    assert outcome.code == 130
    assert "interrupted" in outcome.stderr.splitlines()
    assert "Traceback" not in outcome.stderr


@pytest.mark.soak
def test_the_demo_ends_with_a_bundle_that_beats_averaging(run_verb: RunVerb, tmp_path: Path) -> None:
    outcome = run_verb("demo", "--output", str(tmp_path / "demo"))

    assert outcome.code == 0, outcome.stderr
    assert outcome.result == str(tmp_path / "demo" / "bundle")
    assert (tmp_path / "demo" / "bundle" / "manifest.json").is_file()
    assert "<- label" in outcome.stdout

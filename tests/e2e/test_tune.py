"""A search as a user types it: killed, started again, and looked at."""

from __future__ import annotations

import csv
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import NUM_CLASSES, RunVerb, Shards, StartVerb
from tests.e2e.processes import Outcome
from yt8m_ray.artifacts.checkpoint import load_model

NUM_TRIALS, NUM_EPOCHS = 3, 4
SPACE = "{model.num_mixtures: {choice: [1, 2]}, optimizer.learning_rate: {loguniform: [0.01, 0.2]}}"


def arguments(shards: Shards, output: Path, *more: str) -> list[str]:
    settings = f"data.num_classes={NUM_CLASSES} model.name=moe train.batch_size=32 train.num_epochs={NUM_EPOCHS}"
    search = f"tune.budget.trials={NUM_TRIALS} tune.max_concurrent=1 tune.scheduler.name=fifo run.name=search"
    paths = [f"output={output}", f"data.train={shards.train}", f"data.validation={shards.validation}"]
    return [*paths, *settings.split(), *search.split(), f"tune.space={SPACE}", *more]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class Story:
    """A search that was killed in its second trial, and the same command again."""

    folder: Path
    killed: Outcome
    leftovers: list[str]
    before: list[dict[str, str]]
    end: Outcome


@pytest.fixture(scope="module")
def story(
    start_verb: StartVerb, run_verb: RunVerb, video_shards: Shards, tmp_path_factory: pytest.TempPathFactory
) -> Story:
    output = tmp_path_factory.mktemp("tune")
    with start_verb("tune", *arguments(video_shards, output)) as command:
        command.wait_until(lambda: "trial 1 epoch 2" in command.stderr)
        command.send(signal.SIGKILL)
        killed = command.wait()
        leftovers = command.leftovers()
    before = rows_of(output / "search")
    return Story(output / "search", killed, leftovers, before, run_verb("tune", *arguments(video_shards, output)))


def test_a_killed_search_leaves_no_process(story: Story) -> None:
    assert story.killed.code == -signal.SIGKILL
    assert story.leftovers == []


def test_the_same_command_goes_on_with_the_trial_that_was_running(story: Story) -> None:
    assert story.end.code == 0, story.end.stderr
    assert "trial 1 goes on" in story.end.stderr
    assert "trial 1 epoch 1:" not in story.end.stderr  # it continues from its checkpoint
    assert "trial 0" not in story.end.stderr


def test_no_finished_trial_is_lost_and_the_budget_counts_all_of_them(story: Story) -> None:
    after = rows_of(story.folder)

    assert after[0] == story.before[0]
    assert story.before[0]["status"] == "completed"
    assert [(row["status"], row["num_epochs"]) for row in after] == [("completed", str(NUM_EPOCHS))] * NUM_TRIALS


def test_the_last_line_is_the_folder_of_the_winner_which_is_there(story: Story) -> None:
    best = Path(story.end.result)

    model, config = load_model(best / "checkpoint")

    assert best == story.folder / "best"
    assert yaml.safe_load((best / "config.yaml").read_text())["run"]["name"] == "search-best"
    assert (model.num_classes, config.train.num_epochs) == (NUM_CLASSES, NUM_EPOCHS)


def test_the_page_of_a_search_is_printed_while_it_runs_and_shown_by_a_verb_after_it(
    story: Story, start_verb: StartVerb
) -> None:
    import urllib.request

    assert "Search dashboard: http://127.0.0.1:" in story.end.stderr
    with start_verb("tune_dashboard", str(story.folder), "--port", "0") as command:
        command.wait_until(lambda: command.stdout.endswith("\n"))
        with urllib.request.urlopen(command.stdout.strip(), timeout=10) as response:
            assert b"Optuna Dashboard" in response.read()
        command.send(signal.SIGTERM)
        assert command.wait().code == 143


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["tune.space.model.mixtures={choice: [1]}"], "tune.space.model.mixtures: unknown key; valid: "),
        (["data.train=nowhere"], "data.train: "),
    ],
)
def test_a_mistake_is_one_message_and_exit_2(
    run_verb: RunVerb, video_shards: Shards, tmp_path: Path, changes: list[str], message: str
) -> None:
    outcome = run_verb("tune", *arguments(video_shards, tmp_path, *changes))

    assert outcome.code == 2
    assert message in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert os.listdir(tmp_path) == []


def test_a_dry_run_prints_the_document_and_the_first_configurations(run_verb: RunVerb, video_shards: Shards) -> None:
    outcome = run_verb("tune", *arguments(video_shards, Path("runs"), "--dry-run", "--samples", "3"))

    config, *samples = yaml.safe_load_all(outcome.stdout)
    assert config["tune"]["budget"]["trials"] == NUM_TRIALS
    assert [list(sample) for sample in samples] == [["model.num_mixtures", "optimizer.learning_rate"]] * 3

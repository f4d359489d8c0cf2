"""The document of a search: what loads, what is refused and in which words."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from yt8m_ray.config.document import load_document, parse_yaml, to_yaml, validate
from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.errors import ConfigError

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "configs" / "tune").glob("*.yaml"))
MINIMAL = """
run: {name: s}
data: {features: {mean_rgb: 8}, num_classes: 5}
model: {name: moe}
train: {num_epochs: 4}
tune:
  space:
    model.num_mixtures: {integer: [1, 4]}
    optimizer.learning_rate: {loguniform: [0.001, 0.1]}
"""


def load(tmp_path: Path, *overrides: str) -> TuneConfig:
    path = tmp_path / "config.yaml"
    path.write_text(MINIMAL)
    return load_document(path, TuneConfig, overrides)


def test_the_command_line_replaces_adds_and_takes_out_keys_of_the_space(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "tune.space.model.num_mixtures={choice: [1]}",
        "tune.space.model.l2={uniform: [0, 1]}",
        "tune.space.optimizer.learning_rate=null",
    )

    assert {key: parameter.kind for key, parameter in config.tune.space.items()} == {
        "model.num_mixtures": "choice",
        "model.l2": "uniform",
    }


def test_a_search_survives_save_and_load(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "tune.space.model.low_rank={choice: [null, 4], when: {model.num_mixtures: [2, 3]}}",
        "tune.space.model.prob_gating={choice: [none, prob], when: {model.low_rank: null}}",
        "tune.space.train.batch_size={quniform: [8, 32, 8]}",
        "tune.start_with=[{model.low_rank: null, optimizer.learning_rate: 1e-2}]",
        "tune.scheduler={name: pbt, perturb: [optimizer.learning_rate]}",
    )

    assert TuneConfig.model_validate(parse_yaml(to_yaml(config), where="saved")) == config


def test_the_base_is_the_document_without_the_search(tmp_path: Path) -> None:
    config = load(tmp_path)

    assert config.base.model_dump(mode="json") == config.model_dump(mode="json", exclude={"tune"})


@pytest.mark.parametrize(("max_epochs", "expected"), [("null", 4), ("2", 2), ("9", 4)])
def test_a_trial_has_at_most_the_epochs_of_a_trial(tmp_path: Path, max_epochs: str, expected: int) -> None:
    config = load(tmp_path, f"tune.max_epochs={max_epochs}")

    trial = config.trial_config({"model.num_mixtures": 3})

    assert (trial.train.num_epochs, trial.model.num_mixtures) == (expected, 3)  # type: ignore[attr-defined]
    assert config.base.train.num_epochs == 4


def test_the_latency_is_measured_only_where_it_is_asked_for(tmp_path: Path) -> None:
    pareto = ("tune.pareto=latency_ms", "tune.scheduler.name=fifo")

    assert load(tmp_path, "tune.limits.macs=5").tune.costs == ["int8_bytes", "macs"]
    assert load(tmp_path, "tune.limits.latency_ms=5").tune.costs == ["int8_bytes", "macs", "latency_ms"]
    assert load(tmp_path, *pareto).tune.costs == ["int8_bytes", "macs", "latency_ms"]


GRID = ("tune.searcher={name: grid}", "tune.space.optimizer.learning_rate=null")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["tune.space.model.num_mixture={choice: [1]}"], r"^tune.space.model.num_mixture: unknown key; valid: "),
        (["tune.space.model.num_mixtures={integer: [4, 1]}"], "tune.space.model.num_mixtures: integer: the range is"),
        (["tune.space.model.num_mixtures={chioce: [1]}"], "tune.space.model.num_mixtures.chioce: "),
        (["tune.space.model.num_mixtures=3"], "tune.space.model.num_mixtures: .*found 3"),
        (["tune.space.run.name={choice: [a]}"], "tune.space.run.name: the search sets this itself"),
        (["tune.space.model.l2={choice: [1], when: {model.l2: 1}}"], "tune.space: the conditions of model.l2 go round"),
        (["tune.space=null"], "tune.space: "),
        (["tune.space={}"], "tune.space: Dictionary should have at least 1 item"),
        (["tune.speed=1"], "tune.speed: unknown key; valid: budget, dashboard_port"),
        (["tune.metric=loss"], "tune.metric: Input should be 'gap', 'hit_at_1', 'perr' or 'mean_ap', found 'loss'"),
        (["tune.start_with=[{model.num_mixtures: 5}]"], "tune.start_with: model.num_mixtures: 5 is not in its range"),
        (["tune.start_with=[{model.num_mixtures: two}]"], "tune.start_with: model.num_mixtures: 'two' is not in"),
        (["tune.start_with=[{model.num_mixtures: .inf}]"], "tune.start_with: model.num_mixtures: inf is not in"),
        (["tune.start_with=[{model.num_mixtures: .nan}]"], "tune.start_with: model.num_mixtures: nan is not in"),
        (["tune.start_with=[{model.l2: 0}]"], "tune.start_with: model.l2 is not in tune.space"),
        (["tune.scheduler.name=pbt"], "tune.scheduler: perturb: population based training needs keys"),
        (["tune.scheduler={name: pbt, perturb: [model.l2]}"], "scheduler.perturb: model.l2 is not in tune.space"),
        (
            ["tune.scheduler={name: pbt, perturb: [model.num_mixtures]}"],
            "scheduler.perturb: model.num_mixtures cannot change in a trial",
        ),
        (["tune.scheduler.perturb=[optimizer.learning_rate]"], "tune.scheduler: perturb: scheduler asha does not use"),
        (["tune.scheduler={name: median, brackets: 2}"], "brackets: scheduler median does not use it, only asha"),
        (["tune.scheduler={name: fifo, grace_epochs: 2}"], "grace_epochs: scheduler fifo does not use it, only asha, "),
        (["tune.scheduler={name: hyperband, grace_epochs: 2}"], "grace_epochs: scheduler hyperband does not use it"),
        (["tune.scheduler={name: pbt, reduction_factor: 2, perturb: [x]}"], "reduction_factor: scheduler pbt does not"),
        (["tune.scheduler={name: asha, min_trials: 4}"], "min_trials: scheduler asha does not use it, only median"),
        (["tune.scheduler.reduction_factor=1"], "tune.scheduler.reduction_factor: Input should be greater than 1"),
        (["tune.searcher={name: random, num_random: 3}"], "num_random: searcher random models nothing"),
        (["tune.pareto=macs"], "scheduler: a front has no order by which to stop trials; give name: fifo"),
        (["tune.searcher.name=grid"], "tune.space.optimizer.learning_rate: a grid needs values that can be counted"),
        ([*GRID, "tune.start_with=[{model.num_mixtures: 1}]"], "start_with: a grid tries every configuration"),
        (
            [
                *GRID,
                "tune.start_with=[{model.num_mixtures: 1}]",
                "tune.pareto=macs",
                "tune.scheduler.name=fifo",
            ],
            "start_with: a grid tries every configuration",
        ),
        (["tune.searcher={name: random}", "tune.warm_start=[a]"], "warm_start: searcher random learns from nothing"),
        ([*GRID, "tune.warm_start=[a]"], "warm_start: searcher grid learns from nothing"),
        (["tune.budget.trials=null"], "budget: expected at least one of trials, epochs, wall_s"),
        (["tune.budget.trials=0"], "tune.budget.trials: Input should be greater than 0, found 0"),
        (["tune.retrain={train.num_epoch: 9}"], "^tune.retrain: train.num_epoch: unknown key; valid: "),
        (["tune.retrain={train.num_epochs: 0}"], "^tune.retrain: train.num_epochs: Input should be greater than 0"),
        (["tune.limits.macs=0"], "tune.limits.macs: Input should be greater than 0"),
        (["model.num_mixtures=0"], "model.num_mixtures: Input should be greater than or equal to 1"),
    ],
)
def test_a_mistake_names_its_key(tmp_path: Path, changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, *changes)

    text = str(error.value).replace(f"{tmp_path / 'config.yaml'}: ", "")
    assert re.search(message, text), text


@pytest.mark.parametrize(
    "changes",
    [
        ["tune.budget={trials: null, epochs: 9}"],
        ["tune.budget={trials: null, wall_s: 9}"],
        [*GRID, "tune.budget.trials=null"],
        ["tune.searcher={name: gp, num_random: 3}", "tune.warm_start=[a]"],
        ["tune.scheduler={name: pbt, perturb: [optimizer.learning_rate]}"],
        ["tune.pareto=macs", "tune.scheduler.name=fifo"],
        ["tune.retrain={train.num_epochs: 9, data.train: a}"],
        ["tune.start_with=[{}, {model.num_mixtures: 4.0}]"],
    ],
)
def test_what_goes_together_is_taken(tmp_path: Path, changes: list[str]) -> None:
    load(tmp_path, *changes)


def test_the_section_is_required() -> None:
    tree: dict[str, Any] = parse_yaml(MINIMAL, where="test")
    del tree["tune"]

    with pytest.raises(ConfigError, match=r"^tune: required, but not given$"):
        validate(tree, TuneConfig, where=None)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_search_survives_save_and_load(path: Path) -> None:
    config = load_document(path, TuneConfig)

    assert TuneConfig.model_validate(parse_yaml(to_yaml(config), where="saved")) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_command_in_the_header_of_a_shipped_search_parses(path: Path) -> None:
    commands = [line.removeprefix("# ") for line in path.read_text().splitlines() if "yt8m tune" in line]
    words = shlex.split(commands[0])

    assert words[:2] == ["yt8m", "tune"]
    assert words[2] == path.stem
    load_document(path, TuneConfig, [word for word in words[3:] if not word.startswith("--")])

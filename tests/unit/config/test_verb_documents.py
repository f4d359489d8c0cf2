"""The documents of evaluations and exports, and the shipped ones."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from yt8m_ray.config.document import load_document, override, parse_yaml, to_yaml, validate
from yt8m_ray.config.evaluate import EvaluateConfig
from yt8m_ray.config.export import ExportConfig
from yt8m_ray.errors import ConfigError

ROOT = Path(__file__).parents[3]
EXPORTS = sorted((ROOT / "configs" / "export").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPORTS, ids=lambda path: path.stem)
def test_a_shipped_export_survives_save_and_load(path: Path) -> None:
    config = load_document(path, ExportConfig)

    assert ExportConfig.model_validate(parse_yaml(to_yaml(config), where="saved")) == config


@pytest.mark.parametrize("path", EXPORTS, ids=lambda path: path.stem)
def test_the_command_in_the_header_of_a_shipped_export_names_every_member(path: Path) -> None:
    (command,) = [line for line in path.read_text().splitlines() if line.startswith("# yt8m")]
    words = shlex.split(command.removeprefix("# "))

    assert words[:2] == ["yt8m", "export"]
    assert words[2] == path.stem
    config = load_document(path, ExportConfig, words[3:])
    assert {member.checkpoint for member in config.members} == {"CHECKPOINT"}


MEMBERS = [{"checkpoint": "a"}, {"checkpoint": "b", "weight": 2.0}]


def export(**sections: Any) -> ExportConfig:
    return validate({"members": MEMBERS[:1] * 2, "output": "bundle", **sections}, ExportConfig, where=None)


def test_an_export_takes_the_weights_that_are_given_and_all_members_by_default() -> None:
    config = export(members=MEMBERS)

    assert (config.weighting.name, config.selection, config.needs_scores) == ("given", None, False)
    assert config.weights() == [1 / 3, 2 / 3]


@pytest.mark.parametrize(
    "sections",
    [
        {"weighting": {"name": "nnls", "shards": "w*"}},
        {"weighting": {"name": "gap", "shards": ["v*", "w*"]}, "selection": {"max_bytes": 1e9}},
        {"weighting": {"name": "equal", "shards": "w*"}, "selection": {"max_latency_ms": 50}},
        {"members": MEMBERS, "weighting": {"shards": "w*"}, "selection": {}},
    ],
)
def test_an_export_that_chooses_survives_save_and_load(sections: dict[str, Any]) -> None:
    config = export(**sections)

    assert config.needs_scores
    assert ExportConfig.model_validate(parse_yaml(to_yaml(config), where="saved")) == config


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"weighting": {"name": "nnls"}}, "weighting.shards: weighting.name nnls needs labelled shards"),
        ({"selection": {"max_bytes": 1e9}}, "weighting.shards: selection needs labelled shards"),
        (
            {"members": MEMBERS, "weighting": {"name": "gap", "shards": "w*"}},
            "members.1.weight: is given, but weighting.name gap says where weights come from",
        ),
        (
            {"members": MEMBERS, "weighting": {"name": "equal"}},
            "members.1.weight: is given, but weighting.name equal says where weights come from",
        ),
        ({"weighting": {"shards": "w*"}}, "weighting.shards: nothing is chosen by it where weights are given"),
        (
            {"weighting": {"name": "equal", "folds": 3}},
            "weighting.folds: nothing is chosen by it where weights are equal",
        ),
        ({"weighting": {"name": "best"}}, "weighting.name: "),
        ({"weighting": {"name": "gap", "shards": "w*", "top_k": 19}}, "weighting.top_k: "),
        ({"weighting": {"name": "gap", "shards": "w*", "folds": 1}}, "weighting.folds: "),
        ({"weighting": {"name": "gap", "shards": "w*"}, "selection": {"max_bytes": 0}}, "selection.max_bytes: "),
        ({"weighting": {"name": "gap", "shards": "w*"}, "selection": {"bytes": 1}}, "selection.bytes: unknown key"),
    ],
)
def test_a_choice_that_cannot_be_meant_is_refused_when_the_file_loads(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        export(**sections)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"group_size": 32}, "transform.group_size: int8 does not use it, only int4$"),
        ({"name": "kmeans", "group_size": 32}, "transform.group_size: kmeans does not use it, only int4$"),
        ({"name": "float16", "activations": "float32"}, "transform.activations: float16 does not use it, only int8, "),
        ({"name": "none", "min_elements": 0}, "transform.min_elements: none does not use it, only int8, "),
        ({"max_gap_loss": 0.001}, "transform.max_gap_loss: int8 does not use it, only smallest$"),
        ({"of": ["int4"]}, "transform.of: int8 does not use it, only smallest$"),
        ({"name": "smallest", "of": []}, "transform.of: "),
        ({"name": "smallest", "max_gap_loss": -0.001}, "transform.max_gap_loss: "),
        ({"name": "smallest"}, "weighting.shards: transform.name smallest needs labelled shards"),
    ],
)
def test_an_option_that_the_transform_does_not_read_is_refused(transform: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        export(transform=transform)


@pytest.mark.parametrize(
    "transform",
    [
        {"name": "int4", "group_size": 32, "activations": "float32"},
        {"activations": "float32", "min_elements": 0},
        {"name": "bfloat16", "min_elements": 0},
        {"name": "none", "min_elements": 17000, "group_size": 64, "activations": "int8"},  # as a saved file has it
    ],
)
def test_an_option_that_the_transform_reads_and_every_default_is_taken(transform: dict[str, Any]) -> None:
    assert export(transform=transform).transform.model_dump().items() >= transform.items()


def test_the_smallest_transform_is_sought_on_shards_that_nothing_else_may_need() -> None:
    tried = {"name": "smallest", "of": ["int4", "float16"], "max_gap_loss": 0.001, "group_size": 32}

    config = export(transform=tried, weighting={"shards": "w*"})

    assert (config.needs_transforms, config.needs_scores) == (True, False)
    assert ExportConfig.model_validate(parse_yaml(to_yaml(config), where="saved")) == config
    with pytest.raises(ConfigError, match=r"^weighting\.folds: nothing is chosen by it"):
        export(transform=tried, weighting={"shards": "w*", "folds": 3})
    with pytest.raises(ConfigError, match=r"^transform\.group_size: float16, int8, smallest does not use it"):
        export(transform={**tried, "of": ["int8", "float16"]}, weighting={"shards": "w*"})


def test_a_member_is_stored_as_it_says_and_tried_in_every_way_where_it_says_nothing() -> None:
    members = [{"checkpoint": "a", "transform": "int4"}, {"checkpoint": "b", "ema": True}]
    config = export(members=members, transform={"name": "smallest"}, weighting={"shards": "w*"})

    ways = config.trials(1)

    assert config.transform_of(config.members[0]).name == "int4"
    assert [(way.checkpoint, way.ema, way.transform) for way in ways.members] == [
        ("b", True, name) for name in ("none", "int4", "int8", "float16")
    ]
    found = config.with_transforms(["int4", "int8"])
    assert [found.transform_of(member).name for member in found.members] == ["int4", "int8"]


def test_where_every_member_says_how_it_is_stored_nothing_is_sought() -> None:
    members = [{"checkpoint": "a", "transform": "int4"}, {"checkpoint": "b", "transform": "none"}]

    config = export(members=members, transform={"name": "int8", "group_size": 32})

    assert not config.needs_transforms
    assert config.transform_of(config.members[0]).group_size == 32


def test_chosen_members_are_those_with_a_share_in_their_order() -> None:
    config = export(members=[{"checkpoint": name, "ema": True} for name in "abc"])

    chosen = config.chosen([0.25, 0.0, 0.75])

    assert [(member.checkpoint, member.ema) for member in chosen.members] == [("a", True), ("c", True)]
    assert chosen.weights() == [0.25, 0.75]


@pytest.mark.parametrize(
    "key", ["data.features", "data.normalize", "data.num_classes", "data.train", "scaling.use_gpu", "model.name"]
)
def test_what_a_model_says_itself_is_no_key_of_an_evaluation(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key if key != 'model.name' else 'model'}: unknown key"):
        override(EvaluateConfig(), {key: "1"})


def test_an_evaluation_names_its_shards_its_loss_and_its_workers() -> None:
    changes = {"data.test": ["a", "b"], "data.verify_checksums": False, "scaling.num_workers": 2}
    config = override(EvaluateConfig(), changes | {"loss.published_epsilon": 1e-5})

    tree = parse_yaml(to_yaml(config), where="saved")
    assert tree["data"] == {"test": ["a", "b"], "verify_checksums": False, "on_corrupt": "fail"}
    assert tree["loss"]["published_epsilon"] == 1e-5
    assert tree["scaling"] == {"num_workers": 2}

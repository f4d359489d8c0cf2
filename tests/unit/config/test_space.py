"""What of a train config a search may change, to what, and the train config that a choice makes."""

from __future__ import annotations

import copy
from typing import Any

import pydantic
import pytest

from yt8m_ray.config.space import Parameter, Params, Space, apply, choose, flatten_space, grid, ordered
from yt8m_ray.config.space_checks import check_space
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError

BASE = TrainConfig.model_validate(
    {
        "run": {"name": "s"},
        "data": {"features": {"rgb": 8}, "num_classes": 5, "max_frames": 4},
        "model": {"name": "moe", "num_mixtures": 3, "l2": 0.25},
    }
)
NETVLAD = {"when": {"model.name": "netvlad"}}


def space_of(tree: dict[str, Any]) -> dict[str, Parameter]:
    return pydantic.TypeAdapter(Space).validate_python(tree)


def fault(tree: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        check_space(space_of(tree), BASE)
    return str(error.value)


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        ({"choice": [1, None, "a", [1, 2], {"b": 1}]}, [1, None, "a", [1, 2], {"b": 1}], [2, "None", [2, 1], {"b": 2}]),
        ({"uniform": [0.5, 2]}, [0.5, 1, 2.0], [0.49, 2.01, "1", None, True]),
        ({"loguniform": [0.01, 1]}, [0.01, 0.5, 1], [0.009, 0]),
        ({"quniform": [1, 10, 3]}, [1, 4, 7, 10], [0, 2, 13, 4.5]),
        ({"quniform": [0.1, 0.35, 0.1]}, [0.1, 0.2, 0.3], [0.35, 0.15]),
        ({"integer": [-1, 2]}, [-1, 0, 2], [-2, 3, 0.5]),
        ({"loginteger": [1, 8]}, [1, 3, 8], [0, 9, 2.5]),
    ],
)
def test_a_range_contains_its_values_alone(kind: dict[str, Any], inside: list[Any], outside: list[Any]) -> None:
    parameter = Parameter.model_validate(kind)

    assert [value for value in inside if not parameter.contains(value)] == []
    assert [value for value in [*outside, float("nan"), float("inf"), -float("inf")] if parameter.contains(value)] == []


def test_a_whole_number_is_the_same_with_and_without_a_point() -> None:
    assert Parameter(choice=[100, 200]).contains(100.0)
    assert Parameter(choice=[0.0, 0.5]).contains(0)
    assert not Parameter(choice=[0, 1]).contains(True)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ({"choice": ["b", "a"]}, ["b", "a"]),
        ({"quniform": [1, 10, 4]}, [1, 5, 9]),
        ({"quniform": [0.1, 0.3, 0.1]}, [0.1, 0.2, 0.3]),
        ({"quniform": [0, 1, 0.25]}, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ({"quniform": [3, 3, 2]}, [3]),
        ({"integer": [2, 4]}, [2, 3, 4]),
        ({"uniform": [0, 1]}, None),
        ({"loguniform": [1, 2]}, None),
        ({"loginteger": [1, 2]}, None),
    ],
)
def test_what_can_be_counted_lists_its_values(kind: dict[str, Any], values: list[Any] | None) -> None:
    found = Parameter.model_validate(kind).values

    assert repr(found) == repr(values)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({}, "expected exactly one of choice, uniform, loguniform, quniform, integer, loginteger, found none"),
        ({"when": {"run.seed": 1}}, "found none"),
        ({"choice": [1], "integer": [1, 2]}, "found choice, integer"),
        ({"choice": []}, "choice: expected at least one value and none twice"),
        ({"choice": [1, 2, 1]}, "choice: expected at least one value and none twice"),
        ({"choice": [{"a": 1, "b": 2}, {"b": 2, "a": 1}]}, "none twice"),
        ({"uniform": [1, 1]}, r"uniform: the range is empty: expected low < high, found \[1, 1\]"),
        ({"uniform": [2, 1]}, "uniform: the range is empty"),
        ({"loguniform": [0.5, 0.25]}, "loguniform: the range is empty"),
        ({"integer": [3, 2]}, "integer: the range is empty"),
        ({"loginteger": [3, 2]}, "loginteger: the range is empty"),
        ({"quniform": [3, 2, 1]}, "quniform: the range is empty"),
        ({"loguniform": [0, 1]}, "loguniform: expected numbers above 0, found 0"),
        ({"loguniform": [-1, 1]}, "loguniform: expected numbers above 0, found -1"),
        ({"loginteger": [0, 4]}, "loginteger: expected numbers above 0, found 0"),
        ({"quniform": [0, 1, 0]}, "0 < step <= high - low"),
        ({"quniform": [0, 1, -0.5]}, "0 < step <= high - low"),
        ({"quniform": [0, 1, 2]}, "0 < step <= high - low"),
        ({"integer": [1, 2.5]}, "integer.1"),
        ({"integer": [1.0, 2]}, "integer.0"),
        ({"uniform": [0, float("inf")]}, "finite"),
        ({"uniform": [0]}, "uniform"),
        ({"choice": [1], "wehn": {}}, "wehn"),
    ],
)
def test_what_is_no_range_is_refused(kind: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        Parameter.model_validate(kind)


def test_nested_and_dotted_spellings_are_one_and_the_later_wins() -> None:
    tree = {"model.l2": {"choice": [0]}, "model": {"num_mixtures": {"integer": [1, 2]}, "l2": {"choice": [1]}}}

    assert flatten_space(tree) == {"model.num_mixtures": {"integer": [1, 2]}, "model.l2": {"choice": [1]}}


def test_null_takes_a_key_out() -> None:
    assert flatten_space({"model.l2": {"choice": [0]}, "a.b": {"choice": [1]}, "model": {"l2": None}}) == {
        "a.b": {"choice": [1]}
    }


@pytest.mark.parametrize(
    "tree",
    [
        {"model.num_mixtures": {"integer": [1, 4]}, "model.low_rank": {"choice": [None, 4]}},
        {"optimizer.learning_rate": {"loguniform": [1e-4, 1]}, "train.batch_size": {"loginteger": [8, 64]}},
        {"augmentation.frame_dropout": {"uniform": [0, 0.5]}, "model.l2": {"uniform": [0, 1]}},
        {"optimizer.beta1": {"quniform": [0.1, 1.0, 0.4]}},  # the last value is 0.9
        {"optimizer.beta1": {"quniform": [0.5, 0.5, 0.6]}},
        {"data.features": {"choice": [{"rgb": 8}, {"rgb": 8, "audio": 2}]}},
        {"model": {"choice": [{"name": "moe", "num_mixtures": 2}, {"name": "logistic"}]}},
        {"model.name": {"choice": ["moe", "netvlad"]}, "model.num_clusters": {"choice": [2, 4], **NETVLAD}},
        {"model.name": {"choice": ["moe", "logistic"]}, "model.l2": {"uniform": [0, 1]}},  # both have it
        {
            "optimizer.schedule": {"choice": ["staircase", "triangular"]},  # which needs the key below
            "optimizer.cycle_examples": {"choice": [100], "when": {"optimizer.schedule": "triangular"}},
        },
        {
            "model.name": {"choice": ["moe", "netvlad"]},
            "model.head.name": {"choice": ["moe", "logistic"], **NETVLAD},
            "model.head.num_mixtures": {"integer": [1, 2], "when": {"model.head.name": "moe"}},
        },
        {"model.num_mixtures": {"integer": [1, 4], "when": {"optimizer.name": ["adam", "sgd"]}}},
        {"model.name": {"choice": ["netvlad"]}, "model.hidden_dim": {"choice": [4], "when": {"model.gating": True}}},
    ],
)
def test_a_space_of_a_train_config_is_taken(tree: dict[str, Any]) -> None:
    check_space(space_of(tree), BASE)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"model.num_mixture": {"choice": [1]}}, "model.num_mixture: unknown key; valid: batch_norm_momentum, "),
        ({"modle.l2": {"choice": [1]}}, "modle.l2: modle: unknown key; valid: augmentation, "),
        ({"model.name.deep": {"choice": [1]}}, "model.name.deep: model.name is a value, not a section"),
        ({"model.num_mixtures": {"uniform": [1, 4]}}, "model.num_mixtures: Input should be a valid integer, "),
        ({"model.num_mixtures": {"integer": [0, 4]}}, "model.num_mixtures: Input should be greater than or equal to 1"),
        ({"model.l2": {"choice": [0, -1]}}, "model.l2: Input should be greater than or equal to 0, found -1"),
        ({"optimizer.learning_rate": {"choice": ["fast"]}}, "optimizer.learning_rate: Input should be a valid number"),
        ({"optimizer.learning_rate": {"uniform": [0, 1]}}, "optimizer.learning_rate: Input should be greater than 0"),
        ({"optimizer.beta1": {"quniform": [0.5, 1, 0.25]}}, "optimizer.beta1: Input should be less than 1, found 1.0"),
        ({"model.name": {"choice": ["moe", "meo"]}}, "model.name: unknown model 'meo'; valid: "),
        ({"loss.name": {"choice": ["hinges"]}}, "loss.name: unknown loss 'hinges'; valid: "),
        ({"model": {"choice": [{"name": "meo"}]}}, "model: name: unknown model 'meo'; valid: "),
        ({"model": {"choice": [{"name": "moe", "k": 1}]}}, "model: model.k: unknown key; valid: "),
        ({"model": {"choice": [{"name": "moe", "num_mixtures": 0}]}}, "model: model.num_mixtures: Input should be"),
    ],
)
def test_a_key_or_value_that_a_train_config_does_not_take_is_named(tree: dict[str, Any], message: str) -> None:
    assert fault(tree).startswith(f"tune.space.{message}")


@pytest.mark.parametrize(
    "key",
    [
        *("output", "run.name", "run.resume", "run.trace_videos", "run", "tracking", "tracking.uri"),
        *("scaling.num_workers", "scaling", "checkpoint.every_steps"),
    ],
)
def test_what_the_search_sets_itself_is_refused(key: str) -> None:
    assert fault({key: {"choice": [1]}}) == (
        f"tune.space.{key}: the search sets this itself; it is the same for all trials"
    )


@pytest.mark.parametrize(
    "key", ["data.train", "data.validation", "data.test", "data.folds", "data.fold", "data.split_seed", "data"]
)
def test_what_changes_the_videos_that_trials_are_measured_on_is_refused(key: str) -> None:
    assert fault({key: {"choice": [1]}}) == (
        f"tune.space.{key}: trials that are measured on different videos or classes cannot be compared"
    )


def test_every_wrong_key_has_a_line() -> None:
    text = fault({"output": {"choice": ["a"]}, "model.k": {"choice": [1]}, "model.l2": {"uniform": [0, 1]}})

    assert [line.split(": ")[0] for line in text.splitlines()] == ["tune.space.output", "tune.space.model.k"]


def test_a_key_that_another_family_lacks_needs_a_condition() -> None:
    text = fault({"model.name": {"choice": ["moe", "netvlad"]}, "model.num_mixtures": {"integer": [1, 2]}})

    assert text.startswith("tune.space.model.num_mixtures: unknown key; valid: ")
    assert text.endswith("(where model.name=netvlad)")


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ({"model.nmae": "moe"}, "model.nmae is never moe"),
        ({"model.name": "meo"}, "model.name is never meo"),
        ({"model.name": "netvlad"}, "model.name is never netvlad"),  # not searched, and the base has moe
        ({"model.low_rank": [4, 8]}, "model.low_rank is never [4, 8]"),
        ({"train.batch_size": []}, "train.batch_size is never []"),
    ],
)
def test_a_condition_that_is_never_met_is_refused(when: dict[str, Any], message: str) -> None:
    tree = {"model.l2": {"uniform": [0, 1], "when": when}, "model.low_rank": {"choice": [None, 2]}}

    assert fault(tree) == f"tune.space.model.l2.when: {message}"


def test_a_condition_on_a_key_that_its_section_lacks_is_refused() -> None:
    tree = {
        "model.name": {"choice": ["moe", "netvlad"]},
        "model.hidden_dim": {"choice": [4], "when": {"model.name": "netvlad", "model.gatnig": True}},
    }

    assert fault(tree).startswith("tune.space.model.hidden_dim.when: unknown key; valid: ")


def test_a_wrong_key_is_found_where_its_condition_needs_other_keys() -> None:
    tree = {
        "optimizer.schedule": {"choice": ["staircase", "triangular"]},
        "optimizer.cycle_exampels": {"choice": [100], "when": {"optimizer.schedule": "triangular"}},
    }

    assert fault(tree).startswith("tune.space.optimizer.cycle_exampels: unknown key; valid: ")


@pytest.mark.parametrize(
    "tree",
    [
        {"model.l2": {"choice": [1], "when": {"run.seed": 1}}, "run.seed": {"choice": [1], "when": {"model.l2": 1}}},
        {"model.l2": {"choice": [1, 2], "when": {"model.l2": 1}}},
        {"model": {"choice": [{"name": "moe"}], "when": {"model.name": "moe"}}},
        {"model.name": {"choice": ["moe"], "when": {"model.l2": 0}}},
    ],
)
def test_conditions_that_go_round_in_a_circle_are_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^tune.space: the conditions of .* go round in a circle"):
        ordered(space_of(tree))


def test_a_key_comes_behind_what_it_depends_on() -> None:
    tree = {
        "model.head.num_mixtures": {"integer": [1, 2], "when": {"model.head.name": "moe"}},
        "model.head.name": {"choice": ["moe"], **NETVLAD},
        "train.batch_size": {"choice": [8]},
        "model.name": {"choice": ["moe", "netvlad"]},
    }

    found = ordered(space_of(tree))

    assert sorted(found) == sorted(tree)
    assert found.index("model.name") < found.index("model.head.name") < found.index("model.head.num_mixtures")


def picked(tree: dict[str, Any], **values: Any) -> Params:
    return choose(space_of(tree), BASE, lambda key, _: values[key.split(".")[-1]])


def test_a_key_is_chosen_only_where_its_condition_holds() -> None:
    tree = {"model.name": {"choice": ["moe", "netvlad"]}, "model.num_clusters": {"choice": [2, 4], **NETVLAD}}

    assert picked(tree, name="moe") == {"model.name": "moe"}
    assert picked(tree, name="netvlad", num_clusters=4) == {"model.name": "netvlad", "model.num_clusters": 4}


def test_a_condition_may_be_on_what_the_document_says() -> None:
    tree = {"model.l2": {"choice": [1], "when": {"model.num_mixtures": [2, 3], "model.low_rank": None}}}

    assert picked(tree, l2=1) == {"model.l2": 1}


def test_a_condition_may_be_on_a_default_of_another_family() -> None:
    tree = {
        "model.name": {"choice": ["moe", "netvlad"]},
        "model.hidden_dim": {"choice": [4], "when": {"model.name": "netvlad", "model.gating": True}},
    }

    assert picked(tree, name="netvlad", hidden_dim=4) == {"model.name": "netvlad", "model.hidden_dim": 4}
    assert picked(tree, name="moe") == {"model.name": "moe"}


def test_keys_of_a_chosen_section_leave_the_section_as_it_was_given() -> None:
    space = space_of({"model": {"choice": [{"name": "moe"}, {"name": "logistic"}]}, "model.l2": {"choice": [0.5]}})

    params = choose(space, BASE, lambda _, parameter: parameter.values[0] if parameter.values else None)
    apply(BASE, params)

    assert params == {"model": {"name": "moe"}, "model.l2": 0.5}
    assert space["model"].choice == [{"name": "moe"}, {"name": "logistic"}]


def test_a_choice_leaves_the_base_as_it_was() -> None:
    before = copy.deepcopy(BASE.model_dump())

    config = apply(BASE, {"model.num_mixtures": 7, "data.features": {"rgb": 8, "audio": 2}})

    assert (config.model.num_mixtures, config.data.feature_sizes) == (7, [8, 2])  # type: ignore[attr-defined]
    assert BASE.model_dump() == before


def test_another_family_begins_with_its_own_defaults() -> None:
    config = apply(BASE, {"model.num_clusters": 4, "model.name": "netvlad"})

    alone = TrainConfig.model_validate(
        {**BASE.model_dump(mode="json"), "model": {"name": "netvlad", "num_clusters": 4}}
    )
    assert config == alone


def test_the_same_family_keeps_what_the_document_says() -> None:
    model = apply(BASE, {"model.name": "moe", "model.num_mixtures": 1}).model

    assert (model.num_mixtures, model.l2) == (1, 0.25)  # type: ignore[attr-defined]


def test_a_name_that_is_no_components_changes_that_key_alone() -> None:
    config = apply(BASE.model_copy(), {"optimizer.learning_rate": 0.5, "optimizer.name": "sgd"})

    assert (config.optimizer.name, config.optimizer.learning_rate) == ("sgd", 0.5)


def test_a_choice_that_makes_no_train_config_is_told() -> None:
    with pytest.raises(ConfigError, match=r"^tune.space: optimizer: momentum: name adam does not use it"):
        apply(BASE, {"optimizer.momentum": 0.5})


def test_a_grid_has_every_choice_once_the_last_key_changing_fastest() -> None:
    tree = {
        "train.batch_size": {"quniform": [8, 24, 16]},
        "model.name": {"choice": ["moe", "netvlad"]},
        "model.num_mixtures": {"integer": [1, 2], "when": {"model.name": "moe"}},
        "model.num_clusters": {"choice": [2, 4, 6], **NETVLAD},
        "model.hidden_dim": {"choice": [3, 5], "when": {"model.num_clusters": [4, 6]}},
    }
    expected: list[Params] = []
    for batch_size in (8, 24):
        first = {"train.batch_size": batch_size}
        expected += [first | {"model.name": "moe", "model.num_mixtures": number} for number in (1, 2)]
        for clusters in (2, 4, 6):
            second = first | {"model.name": "netvlad", "model.num_clusters": clusters}
            expected += [second] if clusters == 2 else [second | {"model.hidden_dim": dim} for dim in (3, 5)]

    assert grid(space_of(tree), BASE) == expected


@pytest.mark.parametrize("kind", [{"uniform": [0, 1]}, {"loguniform": [0.1, 1]}, {"loginteger": [1, 2]}])
def test_a_grid_needs_values_that_can_be_counted(kind: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^tune.space.model.l2: a grid needs values that can be counted"):
        grid(space_of({"run.seed": {"choice": [1]}, "model.l2": kind}), BASE)

from __future__ import annotations

from pathlib import Path

import pytest

from yt8m_ray.config.document import flatten, load_document, override, parse_override, parse_yaml, to_yaml
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError

MINIMAL = "run: {name: test}\nmodel: {name: moe}\n"
CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "train").glob("*.yaml"))


def load(tmp_path: Path, text: str, *overrides: str) -> TrainConfig:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_document(path, TrainConfig, overrides)


def test_the_command_line_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    text = MINIMAL + "train: {num_epochs: 7, batch_size: 64}\n"

    config = load(tmp_path, text, "train.num_epochs=9")

    assert (config.train.num_epochs, config.train.batch_size, config.train.precision) == (9, 64, "float32")


def test_a_bare_glob_is_text(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL, "data.train=*.tfrecord").data.train == "*.tfrecord"


def test_a_list_of_globs_is_a_list(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL, "data.train=[a/*.tfrecord, b]").data.train == ["a/*.tfrecord", "b"]


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("2E5", 2e5), ("1.5e+2", 150.0), ("-3e2", -300.0)])
def test_exponents_without_a_point_are_numbers(text: str, value: float) -> None:
    assert parse_override(f"key={text}") == ("key", value)


@pytest.mark.parametrize("name", ["007", "2024_01_01", "0x10", "12:30", "no", "2024-01-01", "v2"])
def test_a_name_that_only_looks_like_a_number_stays_text(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, MINIMAL, f"run.name={name.replace(':', '-')}").run.name == name.replace(":", "-")
    assert parse_override(f"key={name}") == ("key", name)


@pytest.mark.parametrize(
    ("text", "value"), [("5", 5), ("-3", -3), ("0", 0), ("true", True), ("null", None), ("~", None)]
)
def test_plain_values_have_their_types(text: str, value: object) -> None:
    assert parse_override(f"key={text}") == ("key", value)


def test_the_order_of_features_is_kept_through_save_and_load(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL, "data.features={audio: 128, rgb: 1024}")

    again = TrainConfig.model_validate(parse_yaml(to_yaml(config), where="saved"))

    assert list(again.data.features) == ["audio", "rgb"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.trian=x", "data.trian: unknown key; valid: bagging, cache, features"),
        ("model.num_mixtures=0", "model.num_mixtures: Input should be greater than or equal to 1, found 0"),
        ("model.clusters=3", "model.clusters: unknown key; valid: .*num_mixtures"),
        ("model.name=perceptron", "model: name: unknown model 'perceptron'; valid: .*netvlad"),
        ("train.batch_size=many", "train.batch_size: .*found 'many'"),
        ("train.batch_size=99999999999999999999", "train.batch_size: Input should be less than or equal to 1000000"),
        ("run.seed=99999999999999999999", "run.seed: Input should be less than"),
        ("data.max_frames=100000", "data.max_frames: Input should be less than or equal to 86400, found 100000"),
        ("data.features.mean_rgb=99999999999999999999", "data.features.mean_rgb: Input should be less than"),
        ("run.resume=maybe", "run.resume: Input should be 'auto', 'never' or 'must', found 'maybe'"),
        ("run.name=a/b", "run.name: "),
        ("optimizer.learning_rate=.inf", "optimizer.learning_rate: "),
        ("data.features={video_id: 4}", "data: features: 'video_id' cannot be the name of a feature"),
        ("data.features={rgb: 4, num_frames: 2}", "data: features: 'num_frames' cannot be the name of a feature"),
        ("data.features={mean_video_id: 4}", "data: features: 'mean_video_id' cannot be the name of a feature"),
        ('data.features={"": 4}', "data: features: '' cannot be the name of a feature"),
        ("data.features={mean_rgb: 4, audio: 2}", "data: features: mean_rgb, audio mix video level"),
        ("data.fold=1", "data: fold: 1, but folds is null"),
        ("data={folds: 3, fold: 3}", "data: fold: expected 0 to 2, found 3"),
        ("data={folds: 3, validation: b}", "data: folds: a fold of data.train is the validation"),
        ("seed.deep=1", "seed: unknown key"),
        ("run.name.deep=1", "run.name is a value, not a section"),
        ("nothing", "'nothing': expected section.key=value"),
    ],
)
def test_a_mistake_names_its_dotted_key(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, MINIMAL, change)


def test_every_mistake_is_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, MINIMAL, "data.foo=1", "train.num_epochs=0")
    assert len(str(error.value).splitlines()) == 2


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model: required, but not given"):
        load(tmp_path, "run: {name: test}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"run: [", "not YAML"), (b"- a\n", "expected a mapping"), (b"\xff\xfe", "not UTF-8 text")],
)
def test_a_file_that_is_no_document_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_document(path, TrainConfig)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing.yaml: cannot read the config: No such file"):
        load_document(tmp_path / "nothing.yaml", TrainConfig)


def test_flat_keys_are_the_keys_of_overrides(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL)

    again = override(config, {"model.num_mixtures": 5, "data.train": ["x"]})

    changed = {key: value for key, value in flatten(again).items() if flatten(config)[key] != value}
    assert changed == {"model.num_mixtures": 5, "data.train": ["x"]}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_survives_save_and_load(path: Path) -> None:
    config = load_document(path, TrainConfig)

    assert TrainConfig.model_validate(parse_yaml(to_yaml(config), where="saved")) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_command_in_the_header_of_a_shipped_config_parses(path: Path) -> None:
    import shlex

    commands = [line.removeprefix("# ") for line in path.read_text().splitlines() if "yt8m train" in line]
    words = shlex.split(commands[0])
    assert words[:2] == ["yt8m", "train"]
    assert words[2] == path.stem
    load_document(path, TrainConfig, words[3:])

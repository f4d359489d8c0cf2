"""What predictions, evaluations and exports are checked for before they need a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from yt8m_ray.cli.main import call
from yt8m_ray.config.data import DataConfig
from yt8m_ray.config.export import ExportConfig
from yt8m_ray.data.format.example import encode_example, encode_sequence_example
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.data.pipeline.shards import expand_shards
from yt8m_ray.errors import ConfigError, NoShardsError
from yt8m_ray.inference.ensemble.export import resolve
from yt8m_ray.inference.evaluation_config import evaluation_config
from yt8m_ray.losses import LOSSES
from yt8m_ray.training.run.inputs import splits_of

Save = Callable[..., Path]


def config(*checkpoints: str, validation: str | None = "*.tfrecord", output: str = "bundle") -> ExportConfig:
    members = [{"checkpoint": checkpoint, "weight": index + 1} for index, checkpoint in enumerate(checkpoints)]
    return ExportConfig.model_validate({"members": members, "data": {"validation": validation}, "output": output})


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tfrecord").touch()
    monkeypatch.chdir(tmp_path)


def test_paths_are_those_of_the_working_directory_of_the_command(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    save_tiny_checkpoint("one"), save_tiny_checkpoint("two")

    resolved, shards = resolve(config("one", "./two"))

    assert [(member.checkpoint, member.weight) for member in resolved.members] == [
        (str(tmp_path / "one"), 1),
        (str(tmp_path / "two"), 2),
    ]
    assert resolved.output == str(tmp_path / "bundle")
    assert shards == [str(tmp_path / "a.tfrecord")]


def test_the_first_members_own_validation_shards_are_the_default(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    save_tiny_checkpoint("one", data={"validation": str(tmp_path / "a*")})

    assert resolve(config("one", validation=None))[1] == [str(tmp_path / "a.tfrecord")]


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_a_member_that_is_no_checkpoint_is_named(save_tiny_checkpoint: Save, tmp_path: Path, name: str) -> None:
    save_tiny_checkpoint("one")
    (tmp_path / "empty").mkdir()

    with pytest.raises(
        ConfigError, match=rf"members\.1\.checkpoint: {name}: (there is no such folder|no run, checkpoint or bundle)"
    ):
        resolve(config("one", name))


def test_an_output_that_exists_is_refused(save_tiny_checkpoint: Save) -> None:
    save_tiny_checkpoint("one")

    with pytest.raises(ConfigError, match=r"output: .*one exists already"):
        resolve(config("one", output="one"))


def test_shards_that_do_not_exist_are_named(save_tiny_checkpoint: Save) -> None:
    save_tiny_checkpoint("one")

    with pytest.raises(NoShardsError, match=r"data\.validation: no file matches 'b\*'"):
        resolve(config("one", validation="b*"))


def test_a_vocabulary_of_too_few_classes_is_refused(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    Vocabulary.for_num_classes(5).save(tmp_path / "few.csv")
    save_tiny_checkpoint("one", data={"vocabulary": str(tmp_path / "few.csv")})

    with pytest.raises(ValueError, match=r"few\.csv: expected the names of 30 classes, found 5"):
        resolve(config("one"))


def choosing(shards: str | list[str], *checkpoints: str, validation: str | None = "a.tfrecord") -> ExportConfig:
    """Returns an export that finds its weights on `shards`."""
    tree = {"weighting": {"name": "nnls", "shards": shards}, "output": "bundle"}
    return ExportConfig.model_validate(
        {**tree, "members": [{"checkpoint": name} for name in checkpoints], "data": {"validation": validation}}
    )


def test_weights_are_found_on_shards_of_their_own(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    save_tiny_checkpoint("one", data={"train": str(tmp_path / "t*")})
    shards = touch("b0.tfrecord", "b1.tfrecord")

    resolved, validation = resolve(choosing("b*", "one"))

    assert resolved.weighting.shards == shards
    assert validation == [str(tmp_path / "a.tfrecord")]


def test_whether_to_take_the_average_of_the_weights_stays_what_was_asked(save_tiny_checkpoint: Save) -> None:
    save_tiny_checkpoint("one", ema={"decay": 0.9})
    members = [{"checkpoint": "one", "ema": ema} for ema in (True, False, None)]
    asked = ExportConfig.model_validate({"members": members, "data": {"validation": "*.tfrecord"}, "output": "bundle"})

    assert [member.ema for member in resolve(asked)[0].members] == [True, False, None]


def test_weights_found_on_the_shards_that_judge_them_are_refused(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    save_tiny_checkpoint("one", data={"validation": str(tmp_path / "*.tfrecord")})
    Path("a.tfrecord").write_bytes(b"the same content"), Path("copy.tfrecord").write_bytes(b"the same content")
    (tmp_path / "elsewhere").symlink_to(tmp_path)

    for shards, validation in (
        ("*.tfrecord", "a.tfrecord"),
        ("a.tfrecord", None),  # the first member's own
        ("elsewhere/a.tfrecord", "a.tfrecord"),
        ("copy.tfrecord", "a.tfrecord"),
    ):
        with pytest.raises(ConfigError, match=r"^weighting\.shards: \d of its shards are in data\.validation too"):
            resolve(choosing(shards, "one", validation=validation))


def test_weights_found_on_what_a_member_learned_are_refused(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    shards = touch(*(f"train{index}.tfrecord" for index in range(6)))
    train = {"train": str(tmp_path / "train*")}
    save_tiny_checkpoint("all", data=train), save_tiny_checkpoint("elsewhere", data={"train": "/nowhere/*"})
    folds = {**train, "folds": 3, "fold": 1}
    save_tiny_checkpoint("fold", data=folds), save_tiny_checkpoint("bag", data={**folds, "bagging": 0})
    splits = [splits_of(DataConfig.model_validate(section)) for section in (folds, {**folds, "bagging": 0})]
    left_out = sorted(set(shards) - set(splits[1]["train"]) - set(splits[0]["validation"]))
    assert left_out

    for found_on, member in (
        (shards[0], "all"),
        ([*splits[0]["validation"], splits[0]["train"][0]], "fold"),
        (splits[1]["train"], "bag"),
        (left_out, "fold"),
    ):
        with pytest.raises(
            ConfigError, match=r"^weighting\.shards: \d of its shards are in data\.train of members\.1 too"
        ):
            resolve(choosing(found_on, "elsewhere", member))
    for found_on, member in ((splits[0]["validation"], "fold"), (left_out, "bag"), (shards, "elsewhere")):
        resolve(choosing(found_on, member))


def test_members_whose_vocabularies_differ_are_refused(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    Vocabulary.for_num_classes(30).save(tmp_path / "table.csv")
    text = (tmp_path / "table.csv").read_text()
    (tmp_path / "other.csv").write_text(text.replace("/m/0k4j,Car,", "/m/07yv9,Vehicle,"))
    save_tiny_checkpoint("one"), save_tiny_checkpoint("two", data={"vocabulary": str(tmp_path / "table.csv")})
    save_tiny_checkpoint("three", data={"vocabulary": str(tmp_path / "other.csv")})

    resolve(config("one", "two"))
    with pytest.raises(
        ValueError, match=r"/three: class 7 is 'Vehicle' in its data\.vocabulary, but 'Car' in that of "
    ):
        resolve(config("one", "two", "three"))


def test_members_of_2017_and_2018_are_never_mixed(save_tiny_checkpoint: Save) -> None:
    save_tiny_checkpoint("new", data={"num_classes": 3862}), save_tiny_checkpoint("old", data={"num_classes": 4716})

    with pytest.raises(ValueError, match=r"/old: data\.num_classes is 4716, but .*/new has 3862"):
        resolve(config("new", "old"))


RUN = ["run.name=x", "model.name=logistic", "data.train=*.tfrecord"]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("serve", [], "MODEL: name a bundle or a checkpoint, here or in the environment variable YT8M_MODEL"),
        ("serve", ["one", "--port", "99999"], "--port 99999: cannot listen there"),
        ("serve", ["one", "--max-batch-size", "0"], "max_batch_size: Input should be greater than or equal to 1"),
        ("serve", ["one", "--num-replicas", "0"], "--num-replicas: expected at least 1, found 0"),
        ("cross-validate", RUN, r"data\.folds: how many folds\? expected at least 2, found null"),
        ("cross-validate", [*RUN, "data.folds=2"], r"data\.folds: 2 folds need as many shards"),
        ("cross-validate", [*RUN, "data.folds=2", "--num-parallel", "0"], "--num-parallel: expected at least 1"),
        ("find-lr", [*RUN, "--min", "1", "--max", "0.1"], "min, max: expected 0 < min < max"),
        ("find-lr", [*RUN, "data.train=b*"], r"data\.train: no file matches 'b\*'"),
        ("average", ["nothing", "one", "--output", "mean"], "nothing: there is no such folder; "),
        ("average", ["one", "one", "--output", "one"], "output: one: expected a folder that does not exist"),
        ("average", ["one", "one", "--output", "mean", "--weights", "1"], "weights: expected one a checkpoint"),
        ("predict", ["nothing", "*.tfrecord", "--output", "p.csv"], "nothing: there is no such folder; "),
        (
            "predict",
            ["one", "*.tfrecord", "--output", "p.txt"],
            r"output: .*\.csv, \.csv\.gz or \.parquet, found 'p\.txt'",
        ),
        ("predict", ["one", "b*", "--output", "p.csv"], r"shards: no file matches 'b\*'"),
        ("evaluate", ["nothing", "data.test=*.tfrecord"], "nothing: there is no such folder; "),
        ("evaluate", ["one", "data.test=b*"], r"data\.test: no file matches 'b\*'"),
        ("evaluate", ["one"], r"data\.test: no shards are given"),
        (
            "evaluate",
            ["one", "data.normalize=none"],
            r"data\.normalize: unknown key; valid: on_corrupt, test, verify_checksums",
        ),
        ("export", ["members=[{checkpoint: nothing}]", "output=bundle"], r"members\.0\.checkpoint: .*nothing"),
    ],
)
def test_a_verb_refuses_its_arguments_before_it_connects(
    save_tiny_checkpoint: Save,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # nobody is there
    save_tiny_checkpoint("one")

    with pytest.raises((ValueError, NoShardsError), match=message):
        call([name, *arguments])


FRAMES = "data.features={rgb: 8, audio: 4}"
LEVEL = (
    r"[vw]\.tfrecord: record 0 at byte 0: rgb: no such list of frames; found mean_rgb \(4 float32 values\), features of"
)
UNLABELLED = r"(data\.train|data\.test|data\.validation|shards): none of the 3 videos has labels"
TUNE = ["tune.space={optimizer.learning_rate: {choice: [0.1, 0.2]}}", "data.validation=w.tfrecord"]
FITTING = {
    "train": ("train", [*RUN[:2], FRAMES, "data.train=v.tfrecord"]),
    "train on labels": ("train", [*RUN[:2], FRAMES, "data.train=u.tfrecord"]),
    "tune": ("tune", [*RUN[:2], FRAMES, *TUNE, "data.train=v.tfrecord"]),
    "tune on labels": ("tune", [*RUN[:2], FRAMES, *TUNE, "data.train=u.tfrecord"]),
    "cross_validate": ("cross-validate", [*RUN[:2], FRAMES, "data.train=[v.tfrecord, w.tfrecord]", "data.folds=2"]),
    "find_lr": ("find-lr", [*RUN[:2], FRAMES, "data.train=v.tfrecord"]),
    "find_lr on labels": ("find-lr", [*RUN[:2], FRAMES, "data.train=u.tfrecord"]),
    "evaluate": ("evaluate", ["one", "data.test=v.tfrecord"]),
    "evaluate by labels": ("evaluate", ["one", "data.test=u.tfrecord"]),
    "predict": ("predict", ["one", "v.tfrecord", "--output", "p.csv"]),
    "distill": ("distill", ["one", "v.tfrecord", "--output", "soft"]),
    "boost": ("boost", ["one", "v.tfrecord", "--output", "w.parquet"]),
    "boost by labels": ("boost", ["one", "u.tfrecord", "--output", "w.parquet"]),
    "export": ("export", ["members=[{checkpoint: one}]", "output=bundle", "data.validation=v.tfrecord"]),
    "export by labels": ("export", ["members=[{checkpoint: one}]", "output=bundle", "data.validation=u.tfrecord"]),
    "export that chooses": (
        "export",
        [
            *("members=[{checkpoint: one}]", "output=bundle", "data.validation=f.tfrecord"),
            *("weighting.name=nnls", "weighting.shards=v.tfrecord"),
        ],
    ),
}


@pytest.mark.parametrize("verb", FITTING)
def test_a_verb_reads_a_record_before_it_connects(
    save_tiny_checkpoint: Save, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # nobody is there
    save_tiny_checkpoint("one")
    means = {"id": [b"x"], "labels": np.array([1]), "mean_rgb": np.ones(4, np.float32)}
    lists = {"rgb": np.ones((3, 8), np.uint8), "audio": np.ones((3, 4), np.uint8)}
    for name in "vw":
        write_records(f"{name}.tfrecord", [encode_example(means)])
    write_records("u.tfrecord", [encode_sequence_example({"id": [b"x"]}, lists)] * 3)
    write_records("f.tfrecord", [encode_sequence_example({"id": [b"x"], "labels": np.array([1])}, lists)])
    before = sorted(tmp_path.rglob("*"))
    name, arguments = FITTING[verb]

    with pytest.raises(ValueError, match=UNLABELLED if "label" in verb else LEVEL):
        call([name, *arguments])

    assert sorted(tmp_path.rglob("*")) == before  # neither a run nor MLflow's store


@pytest.mark.parametrize("name", ["bob's videos", "videos@latest", "videos@v1", ""])
def test_names_for_the_registry_are_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(ConfigError, match="registered model "):
        call(["tune", *RUN, "tune.space={optimizer.learning_rate: {choice: [0.1]}}", "--register", name])
    given, _, alias = name.partition("@")
    with pytest.raises(ConfigError, match="registered model "):
        call(["register", "nowhere", "--uri", "sqlite:///x.db", "--name", given, "--alias", alias or "champion"])

    assert sorted(tmp_path.rglob("*")) == before


def test_the_test_of_a_learning_rate_checks_what_training_checks(tmp_path: Path) -> None:
    Vocabulary.for_num_classes(5).save(tmp_path / "few.csv")

    with pytest.raises(ConfigError, match=r"data\.vocabulary: .*few\.csv names 5 classes"):
        call(["find-lr", *RUN, f"data.vocabulary={tmp_path}/few.csv"])
    with pytest.raises(ConfigError, match=r"data\.manifest: "):
        call(["find-lr", *RUN, "data.manifest=nowhere.json"])


def test_an_evaluation_of_a_checkpoint_begins_with_its_own_loss_and_shards(save_tiny_checkpoint: Save) -> None:
    loss = {"name": "cross_entropy", "published_epsilon": 1e-5}
    path = save_tiny_checkpoint("one", data={"test": "t*", "verify_checksums": False}, loss=loss)

    config = evaluation_config(path)

    assert (config.data.test, config.data.verify_checksums) == ("t*", False)
    assert config.loss == LOSSES.parse(loss)


def touch(*names: str) -> list[str]:
    for name in names:
        Path(name).touch()
    return [str(Path(name).absolute()) for name in names]


def test_several_globs_are_trained_on_together() -> None:
    shards = touch("train1.tfrecord", "train2.tfrecord", "validate1.tfrecord")

    splits = splits_of(DataConfig(train=["train*.tfrecord", "validate*.tfrecord", "train1.tfrecord"]))

    assert splits == {"train": shards}


def test_a_fold_of_the_training_shards_is_the_validation() -> None:
    shards = touch(*(f"train{index}.tfrecord" for index in range(6)))

    splits = [splits_of(DataConfig(train="train*.tfrecord", folds=3, fold=fold, split_seed=11)) for fold in range(3)]

    assert sorted(shard for split in splits for shard in split["validation"]) == shards
    assert all(sorted(split["train"] + split["validation"]) == shards for split in splits)


def test_a_shard_in_training_and_validation_is_refused() -> None:
    touch("train1.tfrecord", "train2.tfrecord")

    with pytest.raises(
        ConfigError, match=r"data.validation: 1 of its shards are in data.train too, .*/train2.tfrecord"
    ):
        splits_of(DataConfig(train="train*.tfrecord", validation="train2.tfrecord"))


def test_bagging_draws_among_the_shards_of_the_other_folds() -> None:
    shards = touch(*(f"train{index}.tfrecord" for index in range(6)))
    folds = {"train": "train*.tfrecord", "folds": 3, "fold": 1}

    whole, bagged = (splits_of(DataConfig.model_validate({**folds, "bagging": seed})) for seed in (None, 0))

    assert bagged["validation"] == whole["validation"]
    assert len(bagged["train"]) == 4 and set(bagged["train"]) < set(shards) - set(whole["validation"])


def test_a_shard_that_bagging_leaves_out_stays_out_of_the_validation() -> None:
    touch(*(f"train{index}.tfrecord" for index in range(6)))

    for seed in range(6):
        with pytest.raises(ConfigError, match=r"1 of its shards are in data\.train too"):
            splits_of(DataConfig(train="train*.tfrecord", validation="train2.tfrecord", bagging=seed))


def test_a_pipe_among_the_shards_is_refused_before_anything_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "b.tfrecord")

    with pytest.raises(NoShardsError, match=r"data\.test: .*b\.tfrecord: expected a regular file, found a named pipe"):
        expand_shards("*.tfrecord", key="data.test")
    assert expand_shards("*.tfrecord", key="shards", keep_folders=True)[1:] == [str(tmp_path / "b.tfrecord")]


def test_brackets_in_the_path_of_shards_are_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data [1]").mkdir()
    (tmp_path / "data [1]" / "x[0].tfrecord").touch()

    for pattern in ("data [1]/x[0].tfrecord", "data [1]/*", str(tmp_path / "data [1]" / "x*")):
        assert expand_shards(pattern, key="shards") == [str(tmp_path / "data [1]" / "x[0].tfrecord")]

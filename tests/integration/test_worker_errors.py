"""Errors raised in Ray's processes reach the caller of each verb as they were raised, without what Ray wraps around."""

from __future__ import annotations

import functools
import json
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yt8m_ray.artifacts.checkpoint import save_checkpoint
from yt8m_ray.artifacts.folder_manifest import CheckpointError
from yt8m_ray.cli.main import call
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.errors import CorruptRecordError
from yt8m_ray.data.format.example import encode_example
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.inference.batch.worker_pool import map_videos
from yt8m_ray.inference.predictions.writer import CSV_HEADER
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.models import build_model
from yt8m_ray.topk import NaNScoresError

pytestmark = pytest.mark.usefixtures("ray_cluster")

NUM_CLASSES, SIZE = 6, 4
DATA = {"features": {"mean_rgb": SIZE}, "num_classes": NUM_CLASSES, "normalize": "none"}
KEYS = ["data.features={mean_rgb: 4}", "data.num_classes=6", "data.normalize=none", "model.name=moe"]


def video(name: str, value: float = 1.0) -> bytes:
    mean = np.full(SIZE, 1.0, np.float32)
    mean[1] = value
    return encode_example({"id": [name.encode()], "labels": np.array([1]), "mean_rgb": mean})


@dataclass(frozen=True)
class Case:
    """A model and shards of 40 sound videos; in one the 31st is enormous, in another it is not finite."""

    model: str
    sound: str
    enormous: str
    not_finite: str
    export: str

    @property
    def nan_scores(self) -> str:
        """A pattern of what a worker says whose model makes no number of a video."""
        place = re.escape(self.enormous)
        return rf"{place}: record 30: the model's scores of video 'bad' are NaN; its features reach 3e\+38"

    @property
    def bad_value(self) -> str:
        """A pattern of what a reader says."""
        return (
            rf"{re.escape(self.not_finite)}: record 30 at byte \d+: mean_rgb: value 1 of 4 is nan, not a finite number"
        )


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("errors")
    config = TrainConfig.model_validate(
        {"output": str(folder / "runs"), "run": {"name": "x"}, "data": DATA, "model": {"name": "moe"}}
    )
    model = build_model(config.model, feature_sizes=[SIZE], num_classes=NUM_CLASSES)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 100.0)  # gates that are all infinite for an enormous video: NaN
    (folder / "model").mkdir()
    save_checkpoint(folder / "model", config=config, model=model, state={}, facts={})
    paths = {}
    for name, value in (("sound", 1.0), ("enormous", 3e38), ("not_finite", np.nan)):
        paths[name] = str(folder / f"{name}.tfrecord")
        write_records(paths[name], [video("bad", value) if n == 30 else video(f"{name}{n}", n / 40) for n in range(40)])
    document = folder / "export.yaml"
    document.write_text(f"members: [{{checkpoint: {folder / 'model'}}}, {{checkpoint: {folder / 'model'}}}]\n")
    return Case(str(folder / "model"), **paths, export=str(document))


OF_A_MODEL: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "predict": ("predict", "{model} {enormous} --output {output}/p.csv"),
    "evaluate": ("evaluate", "{model} data.test={enormous}"),
    "distill": ("distill", "{model} {enormous} --output {output}/soft"),
    "boost": ("boost", "{model} {enormous} --output {output}/w.parquet"),
    "export": ("export", "{export} output={output}/bundle data.validation={enormous}"),
    "export that chooses": (
        "export",
        "{export} output={output}/bundle data.validation={sound} weighting.name=nnls weighting.shards={enormous}",
    ),
}


def each_verb_with(*always: str) -> list[Any]:
    """Returns the verbs of a model; all get their errors by the same function, so that some are for the soak alone."""
    return [verb if verb in always else pytest.param(verb, marks=pytest.mark.soak) for verb in OF_A_MODEL]


@pytest.mark.parametrize("verb", each_verb_with("predict", "evaluate", "export that chooses"))
def test_what_a_models_worker_raises_is_one_message(case: Case, tmp_path: Path, verb: str) -> None:
    name, command = OF_A_MODEL[verb]

    with pytest.raises(ValueError) as caught:
        call([name, *command.format(**vars(case), output=tmp_path).split()])

    assert type(caught.value) is ValueError
    assert re.fullmatch(case.nan_scores, str(caught.value))
    assert list(tmp_path.rglob("*.csv")) == list(tmp_path.rglob("*.parquet")) == []


def test_a_model_that_cannot_be_loaded_by_a_worker_is_one_message(case: Case, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(case.model, tmp_path / "model"))
    (broken / "model.safetensors").unlink()  # between the checks of the command and those of its worker
    spec, load = FeatureSpec({"mean_rgb": SIZE}, NUM_CLASSES), functools.partial(Predictor.from_path, broken)

    with pytest.raises(ValueError) as caught:
        next(map_videos([case.sound], spec, load, Predictor.predict, num_workers=1))

    assert "\n" not in str(caught.value) and "model.safetensors" in str(caught.value)


def test_a_video_whose_scores_are_nan_is_a_bad_record(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "yt8m_ray"):
        call(["predict", case.model, case.enormous, "--output", str(tmp_path / "p.csv"), "--on-corrupt", "skip"])
    lines = (tmp_path / "p.csv").read_bytes().removeprefix(CSV_HEADER).decode().splitlines()

    assert [line.partition(",")[0] for line in lines] == [f"enormous{n}" for n in range(40) if n != 30]
    assert re.search(case.nan_scores, caplog.text)
    assert "left out: value 1" in caplog.text

    capsys.readouterr()
    call(["evaluate", case.model, f"data.test={case.enormous}", "data.on_corrupt=skip"])
    scores = json.loads(capsys.readouterr().out)
    assert (scores["num_videos"], scores["num_rejected"], scores["rejected"]["value"]) == (39, 1, 1)


@pytest.mark.parametrize("verb", each_verb_with("distill", "boost", "export"))
def test_what_a_reader_raises_is_one_message(case: Case, tmp_path: Path, verb: str) -> None:
    name, command = OF_A_MODEL[verb]

    with pytest.raises(CorruptRecordError) as caught:
        command = command.replace("{enormous}", "{not_finite}")
        call([name, *command.format(**vars(case), output=tmp_path).split()])

    assert re.fullmatch(case.bad_value, str(caught.value))


def test_inspect_counts_a_value_that_is_not_finite_as_a_failure(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call(["inspect", case.not_finite, "--num-classes", str(NUM_CLASSES)])
    document = json.loads(capsys.readouterr().out)

    assert document["rejected"] == {"crc": 0, "length": 0, "parse": 0, "label": 0, "value": 1}
    (failure,) = document["failures"]
    assert failure["causes"] == {"value": 1} and re.fullmatch(case.bad_value, failure["first"])


def run_of(case: Case, output: Path) -> list[str]:
    return [f"output={output}", "run.name=bad", "train.num_epochs=1", "train.batch_size=8", *KEYS]


def test_train_tells_what_a_reader_raises(case: Case, tmp_path: Path) -> None:
    with pytest.raises(CorruptRecordError) as caught:
        call(["train", *run_of(case, tmp_path), f"data.train={case.not_finite}"])

    assert re.fullmatch(case.bad_value, str(caught.value))


def test_train_tells_what_a_validation_raises(case: Case, tmp_path: Path) -> None:
    start = [f"train.init_from={case.model}", "optimizer.learning_rate=1e-9"]  # the weights stay as they are
    with pytest.raises(NaNScoresError) as caught:
        call(["train", *run_of(case, tmp_path), *start, f"data.train={case.sound}", f"data.validation={case.enormous}"])

    assert str(caught.value) == "the model's scores of video 'bad' are NaN"


def test_a_search_tells_what_the_readers_of_its_trials_raise(case: Case, tmp_path: Path) -> None:
    space = "tune.space={optimizer.learning_rate: {choice: [0.1, 0.2]}}"
    budget = ["tune.budget.trials=1", "tune.max_concurrent=1", "tune.dashboard_port=null"]
    with pytest.raises(CheckpointError) as caught:
        call(
            [
                "tune",
                *run_of(case, tmp_path),
                space,
                *budget,
                f"data.train={case.not_finite}",
                f"data.validation={case.sound}",
            ]
        )

    assert re.search(case.bad_value, str(caught.value)) and "\n" not in str(caught.value)


@pytest.mark.soak
def test_cross_validation_tells_what_the_readers_of_its_folds_raise(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="2 of 2 folds failed"):
        call(
            ["cross-validate", *run_of(case, tmp_path), "data.folds=2", f"data.train=[{case.not_finite}, {case.sound}]"]
        )
    report = json.loads(capsys.readouterr().out)

    for fold in report["folds"]:
        assert re.fullmatch(f"CorruptRecordError: {case.bad_value}", fold["error"])

"""python -m jobs.import_weights as a user types it: published variables become a checkpoint, or one clear message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.e2e.conftest import RunVerb
from tests.published.golden import published_frames, published_variables
from yt8m_ray.artifacts.checkpoint import load_model
from yt8m_ray.artifacts.folder_manifest import read_manifest
from yt8m_ray.cli.main import call
from yt8m_ray.errors import ConfigError

TITLE = "LstmModel 2x8 +Logistic"
CONFIG = """
run: {name: lstm}
data: {features: {rgb: 1024, audio: 128}, num_classes: 7}
model: {name: lstm, num_layers: 2, cell_dim: 8, head: {name: logistic}}
"""


@pytest.fixture(scope="module", name="config")
def config_of_that_lstm(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("config") / "lstm.yaml"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture(scope="module", name="variables")
def variables_of_a_published_lstm(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("variables") / "lstm.npz"
    np.savez(path, **{f"tower/{name}:0": array for name, array in published_variables(TITLE, 0.3).items()})
    return str(path)


def test_the_checkpoint_predicts_what_tensorflow_did(
    run_verb: RunVerb, config: str, variables: str, tmp_path: Path
) -> None:
    outcome = run_verb("import_weights", config, variables, "--output", f"{tmp_path}/lstm")

    assert outcome.code == 0, outcome.stderr
    assert Path(outcome.result) == tmp_path / "lstm"
    assert read_manifest(tmp_path / "lstm", kind="checkpoint")["imported_from"] == variables
    model, _ = load_model(tmp_path / "lstm")
    frames, num_frames = map(torch.from_numpy, published_frames("m"))
    with torch.no_grad():
        probabilities = torch.sigmoid(model(frames, num_frames))[0, :4]
    torch.testing.assert_close(probabilities, torch.tensor([0.472401, 0.583604, 0.520590, 0.339519]), rtol=1e-4, atol=0)


def test_variables_of_another_model_are_listed_and_nothing_is_written(
    run_verb: RunVerb, config: str, variables: str, tmp_path: Path
) -> None:
    outcome = run_verb("import_weights", config, variables, "model.head.name=moe", "--output", f"{tmp_path}/lstm")

    assert outcome.code == 1
    assert "the variables do not fit LSTMModel: experts/biases is missing; " in outcome.stderr
    assert "tower/fully_connected/weights:0 is unexpected" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not (tmp_path / "lstm").exists()


def test_a_file_that_is_not_there_is_a_wrong_argument(run_verb: RunVerb, config: str, tmp_path: Path) -> None:
    outcome = run_verb("import_weights", config, f"{tmp_path}/none.npz", "--output", f"{tmp_path}/lstm")

    assert outcome.code == 2
    assert "none.npz: expected an .npz file, or the prefix of a TensorFlow checkpoint" in outcome.stderr


def test_keys_may_follow_the_flags(
    config: str, variables: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        call(["import-weights", config, variables, "--output", f"{tmp_path}/lstm", "run.name=mine", "--dry-run"])
    assert "name: mine" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_a_wrong_argument(config: str, variables: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"output: .*/file/lstm: cannot be written: "):
        call(["import-weights", config, variables, "--output", f"{tmp_path}/file/lstm"])

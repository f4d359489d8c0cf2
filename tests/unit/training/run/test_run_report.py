from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from yt8m_ray.artifacts.checkpoint import load_details, save_checkpoint
from yt8m_ray.artifacts.folder_manifest import CheckpointError
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.evaluation import Evaluation
from yt8m_ray.models import build_model
from yt8m_ray.tracking.history import History
from yt8m_ray.training.run.run_report import write_report

NUM_CLASSES = 30


def details() -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    evaluation = Evaluation()
    labels = (torch.rand(300, NUM_CLASSES) < torch.linspace(0.001, 0.3, NUM_CLASSES)).float()
    logits = 2 * labels + torch.randn(300, NUM_CLASSES) - 1
    evaluation.update(logits, labels, torch.tensor(1.0), [f"id{number}<b>|" for number in range(300)])
    return evaluation.details()


def save_run(run_path: Path, *, with_details: bool = True) -> Path:
    config = TrainConfig.model_validate(
        {
            "run": {"name": "a_run"},
            "data": {"features": {"rgb": 8}, "num_classes": NUM_CLASSES},
            "model": {"name": "moe", "num_mixtures": 3},
        }
    )
    model = build_model(config.model, feature_sizes=[8], num_classes=NUM_CLASSES)
    folder = run_path / "epoch_0001_step_000000010"
    folder.mkdir(parents=True)
    metrics = {"validation/gap": 0.625, "validation/num_videos": 300.0, "epoch": 1} if with_details else {}
    found = details() if with_details else None
    save_checkpoint(folder, config=config, model=model, state={}, facts={"metrics": metrics}, details=found)
    return folder


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_path = tmp_path_factory.mktemp("run")
    save_run(run_path)
    history = History(run_path)
    for step in range(1, 40):
        history.append({"train/loss": 100 / step}, step)
    history.append({"validation/gap": 0.625, "validation/loss": 9.0}, 39)
    write_report(run_path)
    return run_path


def test_the_document_needs_no_other_file(run_path: Path) -> None:
    document = (run_path / "report" / "report.html").read_text()

    images = re.findall(r'src="([^"]*)"', document)
    pictures = sorted((run_path / "report").glob("*.png"))
    assert [path.name for path in pictures] == [
        "calibration.png",
        "classes.png",
        "curves.png",
        "precision_recall.png",
    ]
    contents = {base64.b64encode(path.read_bytes()).decode() for path in pictures}
    assert {image.removeprefix("data:image/png;base64,") for image in images} == contents
    assert "http" not in document


def test_it_says_how_good_the_run_is_and_what_was_set(run_path: Path) -> None:
    text = (run_path / "report" / "report.md").read_text()

    assert "| GAP | videos |\n| --- | --- |\n| 0.6250 | 300 |" in text
    assert "| model.name | moe |" in text
    assert "| model.num_mixtures | 3 |" in text
    assert "| parameters | 1,770 |\n" in text  # 4 gates of 8 weights and 3 experts of 9 a class
    assert f"| multiply-accumulates a video | {30 * 7 * 8:,} (a clip of 300 frames) |" in text
    assert "learning_rate" not in text


def test_names_are_text_and_not_markup(run_path: Path) -> None:
    document = (run_path / "report" / "report.html").read_text()
    table = (run_path / "report" / "report.md").read_text()

    assert "&lt;b&gt;|" in document and "<b>" not in document
    assert re.search(r"\| id\d+<b>\\\| \| 0\.\d{3} \|", table)


def test_worst_videos_have_the_names_of_their_labels(run_path: Path) -> None:
    text = (run_path / "report" / "report.md").read_text()

    worst = text[text.index("## Worst videos") :]
    assert len(re.findall(r"^\| id\d+", worst, re.MULTILINE)) == 20
    assert re.search(r"(Game|Video game|Vehicle|Concert|Musician) 0\.\d\d", worst)


def test_a_checkpoint_without_a_validation_has_a_report_without_its_pictures(tmp_path: Path) -> None:
    checkpoint = save_run(tmp_path, with_details=False)

    document = write_report(checkpoint, tmp_path / "elsewhere")

    assert document == tmp_path / "elsewhere" / "report.html"
    assert "was not validated" in document.read_text()
    assert list(document.parent.glob("*.png")) == []


def test_what_a_checkpoint_keeps_of_its_validation_comes_back(tmp_path: Path) -> None:
    folder = save_run(tmp_path)

    found, expected = load_details(folder), details()

    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_folder_without_a_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run, checkpoint or bundle"):
        write_report(tmp_path)
    with pytest.raises(CheckpointError, match="there is no such folder"):
        write_report(tmp_path / "nothing")
    shutil.rmtree(tmp_path)

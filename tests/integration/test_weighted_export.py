"""An export that chooses its members and their weights on Ray: what it chooses, what it says, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.integration.test_predict import FEATURES, NUM_CLASSES
from yt8m_ray.artifacts.checkpoint import save_checkpoint
from yt8m_ray.config.export import ExportConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.example import encode_example
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.inference.batch.distill import label_shards
from yt8m_ray.inference.batch.evaluate import evaluate_shards
from yt8m_ray.inference.bundle.description import format_table
from yt8m_ray.inference.bundle.document import BundleDocument
from yt8m_ray.inference.bundle.folder import load_bundle
from yt8m_ray.inference.ensemble.export import export, resolve
from yt8m_ray.inference.evaluation_config import evaluation_config
from yt8m_ray.models import build_model

pytestmark = pytest.mark.usefixtures("ray_cluster")

TRUTH = np.random.default_rng(0).standard_normal((NUM_CLASSES, sum(FEATURES.values())))


def save_member(folder: Path, *, noise: float, seed: int) -> Path:
    """Saves a linear model whose weights are the truth and so much noise."""
    config = TrainConfig.model_validate(
        {
            "output": str(folder.parent / "runs"),
            "run": {"name": "tiny"},
            "data": {"features": FEATURES, "num_classes": NUM_CLASSES},
            "model": {"name": "logistic"},
        }
    )
    model = build_model(config.model, feature_sizes=list(FEATURES.values()), num_classes=NUM_CLASSES)
    weights = TRUTH + noise * np.random.default_rng(seed).standard_normal(TRUTH.shape)
    (matrix,) = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(-3.0)
        matrix.copy_(torch.from_numpy(4 * weights))
    folder.mkdir()
    save_checkpoint(folder, config=config, model=model, state={}, facts={})
    return folder


def write_shard(path: Path, first: int, count: int) -> Path:
    """Writes videos whose labels are the two classes that the truth gives the most."""
    rng = np.random.default_rng(first)
    payloads = []
    for index in range(first, first + count):
        features = {name: rng.standard_normal(size).astype(np.float32) for name, size in FEATURES.items()}
        labels = np.argsort(-TRUTH @ np.concatenate(list(features.values())))[:2].astype(np.int64)
        payloads.append(encode_example({"id": [f"v{index:04d}".encode()], "labels": labels, **features}))
    write_records(str(path), payloads)
    return path


def config(folder: Path, weighting: str, max_bytes: float) -> ExportConfig:
    noises = {"guess": 30.0, "one": 0.6, "other": 0.6}
    members = [
        save_member(folder / name, noise=noise, seed=1 + index) for index, (name, noise) in enumerate(noises.items())
    ]
    return ExportConfig.model_validate(
        {
            "members": [{"checkpoint": str(path)} for path in members],
            "weighting": {"name": "gap", "shards": weighting, "folds": 3},
            "selection": {"max_bytes": max_bytes, "max_latency_ms": 1000},
            "transform": {"min_elements": 100},
            "data": {"validation": str(folder / "judge*.tfrecord")},
            "output": str(folder / "bundle"),
            "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
        }
    )


def test_the_bundle_holds_what_was_chosen_on_other_videos_and_is_a_model_like_any(tmp_path: Path) -> None:
    for index in range(2):
        write_shard(tmp_path / f"choose{index}.tfrecord", 100 * index, 60)
    judge = write_shard(tmp_path / "judge.tfrecord", 1000, 80)
    # One member takes 30 x 12 codes, 30 scales and 30 biases: there is room for two of three.
    resolved, shards = resolve(config(tmp_path, str(tmp_path / "choose*.tfrecord"), max_bytes=2 * 600))

    path, document = export(resolved, shards)

    report = document.weighting
    assert report is not None
    assert [Path(entry.checkpoint).name for entry in document.members] == ["one", "other"]
    assert [candidate.num_bytes for candidate in report.candidates] == [600, 600, 600]
    assert [candidate.weight for candidate in report.candidates] == [0, *(entry.weight for entry in document.members)]
    assert (report.num_videos, document.quality.num_videos) == (120, 80)
    assert report.gap_in_sample >= max(candidate.gap for candidate in report.candidates)
    assert all(0 < (candidate.latency_ms or 0) < 1000 for candidate in report.candidates)
    assert "left out: logistic" in format_table(document)
    assert load_bundle(path).document == document

    scored = evaluate_shards(path, [str(judge)], evaluation_config(path))
    assert scored["gap"] == pytest.approx(document.quality.gap_after, abs=1e-6)
    assert document.quality.gap_after > max(entry.gap_after for entry in document.members)
    labels = label_shards(path, [str(judge)], tmp_path / "soft_labels")
    assert (labels.teacher, sum(shard.num_videos for shard in labels.shards)) == (load_bundle(path).version, 80)


def test_a_video_that_chose_the_weights_and_shall_judge_them_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "choose.tfrecord", 0, 40)
    write_shard(tmp_path / "judge.tfrecord", 39, 30)  # v0039 is the last of the others

    with pytest.raises(ValueError, match=r"data\.validation: expected other videos .* found 'v0039'; "):
        export(*resolve(config(tmp_path, str(tmp_path / "choose.tfrecord"), max_bytes=1e9)))

    assert not (tmp_path / "bundle").exists()


def test_each_member_is_stored_as_the_smallest_that_keeps_its_gap_on_other_videos(tmp_path: Path) -> None:
    choosing = str(write_shard(tmp_path / "choose.tfrecord", 0, 120))
    judge = str(write_shard(tmp_path / "judge.tfrecord", 1000, 80))
    checkpoint = str(save_member(tmp_path / "one", noise=0.6, seed=2))
    sections = {"min_elements": 100, "group_size": 4}

    def exported(name: str, transform: dict[str, Any], validation: str, **changes: Any) -> BundleDocument:
        tree = {"members": [{"checkpoint": checkpoint}], "transform": transform, "output": str(tmp_path / name)}
        asked = ExportConfig.model_validate({**tree, "data": {"validation": validation}, **changes})
        return export(*resolve(asked))[1]

    int4 = exported("int4", {"name": "int4", **sections}, choosing).quality
    int8 = exported("int8", {"name": "int8", "min_elements": 100}, choosing).quality
    assert int8.gap_before - int8.gap_after < int4.gap_before - int4.gap_after
    between = int4.gap_before - (int4.gap_after + int8.gap_after) / 2

    given = [{"checkpoint": checkpoint, "transform": "int4"}, {"checkpoint": checkpoint}]
    document = exported(
        "smallest",
        {"name": "smallest", "of": ["float16", "int4", "int8"], "max_gap_loss": between, **sections},
        judge,
        members=given,
        weighting={"shards": choosing},
    )

    report = document.trials
    assert report is not None
    assert document.transforms == ["int4", "int8"]  # of the first nothing was asked
    assert (report.shards, report.num_videos, document.quality.num_videos) == ([choosing], 120, 80)
    (member,) = report.members
    gaps = {trial.transform: trial.gap for trial in member.trials}
    assert gaps["none"] == pytest.approx(int4.gap_before, abs=1e-9)
    assert gaps["int4"] == pytest.approx(int4.gap_after, abs=1e-9)
    assert gaps["int8"] == pytest.approx(int8.gap_after, abs=1e-9)
    num_bytes = {trial.transform: trial.num_bytes for trial in member.trials}
    assert [entry.stored_bytes for entry in document.members] == [num_bytes["int4"], num_bytes["int8"]]
    assert load_bundle(tmp_path / "smallest").document == document


def test_the_report_of_weights_says_how_a_candidate_is_stored_whose_transform_was_chosen(tmp_path: Path) -> None:
    tree = {
        "members": [{"checkpoint": str(save_member(tmp_path / "one", noise=0.6, seed=2))}],
        "weighting": {"name": "equal", "shards": str(write_shard(tmp_path / "choose.tfrecord", 0, 60))},
        "selection": {"max_bytes": 1e9},
        "transform": {"name": "smallest", "min_elements": 100, "of": ["int8"], "max_gap_loss": 1},
        "data": {"validation": str(write_shard(tmp_path / "judge.tfrecord", 1000, 40))},
        "output": str(tmp_path / "bundle"),
    }

    document = export(*resolve(ExportConfig.model_validate(tree)))[1]

    assert document.weighting is not None
    assert [candidate.transform for candidate in document.weighting.candidates] == document.transforms == ["int8"]


def test_a_video_that_chose_a_transform_and_shall_judge_it_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "choose.tfrecord", 0, 40)
    write_shard(tmp_path / "judge.tfrecord", 39, 30)
    tree = {
        "members": [{"checkpoint": str(save_member(tmp_path / "one", noise=0.6, seed=2))}],
        "weighting": {"shards": str(tmp_path / "choose.tfrecord")},
        "transform": {"name": "smallest", "min_elements": 100, "of": ["int8"]},
        "data": {"validation": str(tmp_path / "judge.tfrecord")},
        "output": str(tmp_path / "bundle"),
    }

    with pytest.raises(ValueError, match=r"data\.validation: expected other videos .* found 'v0039'; "):
        export(*resolve(ExportConfig.model_validate(tree)))

"""The predictor: rows in, the best classes out, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from yt8m_ray.data.format.example import Fields
from yt8m_ray.data.format.features import VideoRow, to_row
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.locate import is_bundle, locate_model
from yt8m_ray.inference.predictor import Predictor

NO_LABELS = np.empty(0, np.int32)


def clip(num_frames: int, *, seed: int = 0) -> VideoRow:
    frames = np.random.default_rng(seed).integers(0, 256, (num_frames, 12), np.uint8)
    return VideoRow(f"v{seed}", frames, NO_LABELS)


def test_scores_are_the_sigmoid_of_the_models_logits_on_normalized_frames(
    save_tiny_checkpoint: Callable[..., Path],
) -> None:
    predictor = Predictor.from_path(save_tiny_checkpoint())
    row = clip(3)
    best = predictor.predict([row], top_k=30)
    # Dequantization and normalization by hand: b * 4/255 + 4/512 - 2, then each frame divided by its norm.
    frames = row.frames.astype(np.float64) * 4 / 255 + 4 / 512 - 2
    frames /= np.linalg.norm(frames, axis=1, keepdims=True)
    with torch.inference_mode():
        logits = predictor.model(torch.from_numpy(frames).float()[None], torch.tensor([3]))[0].double().numpy()
    expected = 1 / (1 + np.exp(-logits))
    assert best.class_ids[0].tolist() == np.argsort(-expected).tolist()
    assert best.scores[0].numpy() == pytest.approx(np.sort(expected)[::-1], abs=1e-6)


def test_a_video_is_answered_alike_alone_and_beside_longer_ones(save_tiny_checkpoint: Callable[..., Path]) -> None:
    predictor = Predictor.from_path(save_tiny_checkpoint())
    alone = predictor.predict([clip(2, seed=1)])
    together = predictor.predict([clip(6, seed=2), clip(2, seed=1)])
    assert together.class_ids[1].tolist() == alone.class_ids[0].tolist()
    assert torch.allclose(together.scores[1], alone.scores[0], atol=1e-6)


def test_classes_of_another_data_set_have_no_names(save_tiny_checkpoint: Callable[..., Path]) -> None:
    own = Predictor.from_path(save_tiny_checkpoint("own", data={"features": {"audio_embedding": 4}}))
    published = Predictor.from_path(save_tiny_checkpoint("published"))

    assert (own.vocabulary.name(1), published.vocabulary.name(1)) == (None, "Video game")


def test_predictions_do_without_a_vocabulary_and_names_need_all_of_it(
    save_tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    Vocabulary.for_num_classes(5).save(tmp_path / "few.csv")
    missing = Predictor.from_path(save_tiny_checkpoint("a", data={"vocabulary": str(tmp_path / "none.csv")}))
    few = Predictor.from_path(save_tiny_checkpoint("b", data={"vocabulary": str(tmp_path / "few.csv")}))

    assert torch.equal(missing.predict([clip(2)]).scores, few.predict([clip(2)]).scores)
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        _ = missing.vocabulary
    with pytest.raises(ValueError, match=r"few\.csv: expected the names of 30 classes, found 5"):
        _ = few.vocabulary


@pytest.mark.parametrize("name", ["bundle.yaml", "config.yaml"])
def test_a_model_is_found_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).touch()
    monkeypatch.chdir(tmp_path)

    assert locate_model("model") == tmp_path / "model"
    assert is_bundle(locate_model("model")) == (name == "bundle.yaml")


def test_a_folder_of_something_else_is_a_mistake_in_the_arguments(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run, checkpoint or bundle"):
        locate_model(tmp_path)


def test_no_videos_give_no_predictions(save_tiny_checkpoint: Callable[..., Path]) -> None:
    assert Predictor.from_path(save_tiny_checkpoint()).predict([], top_k=5).class_ids.shape == (0, 5)


def test_more_classes_than_there_are_give_all(save_tiny_checkpoint: Callable[..., Path]) -> None:
    assert Predictor.from_path(save_tiny_checkpoint()).predict([clip(2)], top_k=99).class_ids.shape == (1, 30)


def test_a_video_level_model_takes_frames_as_their_mean(save_tiny_checkpoint: Callable[..., Path]) -> None:
    predictor = Predictor.from_path(save_tiny_checkpoint(data={"features": {"mean_rgb": 8, "mean_audio": 4}}))
    frames = clip(5).frames
    mean = (frames.astype(np.float64) * 4 / 255 + 4 / 512 - 2).mean(axis=0).astype(np.float32)
    from_frames = to_row(Fields({"id": [b"a"]}, {"rgb": frames[:, :8], "audio": frames[:, 8:]}), predictor.spec)
    from_means = to_row(Fields({"id": [b"a"], "mean_rgb": mean[:8], "mean_audio": mean[8:]}, {}), predictor.spec)
    found, expected = predictor.predict([from_frames]), predictor.predict([from_means])
    assert found.class_ids.tolist() == expected.class_ids.tolist()
    assert torch.allclose(found.scores, expected.scores, atol=1e-6)

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from yt8m_ray.artifacts.checkpoint import load_model, read_tensors
from yt8m_ray.artifacts.folder_manifest import CheckpointError, write_manifest
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.training.weight_averaging import average_checkpoints

Save = Callable[..., Path]

NETVLAD = {"name": "netvlad", "num_clusters": 4, "hidden_dim": 6}


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    return read_tensors(path / "model.safetensors")


def test_weights_and_statistics_are_the_weighted_mean(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    paths = [save_tiny_checkpoint(name, seed=seed, model=NETVLAD) for seed, name in enumerate("abc")]

    mean = tensors_of(average_checkpoints(paths, tmp_path / "mean", weights=[0.5, 0.3, 0.2]))

    a, b, c = (tensors_of(path) for path in paths)
    assert any(name.endswith("moving_variance") for name in mean)
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, 0.5 * a[name] + 0.3 * b[name] + 0.2 * c[name])


def test_the_mean_of_a_checkpoint_with_itself_is_the_checkpoint(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    path = save_tiny_checkpoint()

    mean = tensors_of(average_checkpoints([path] * 3, tmp_path / "mean"))

    assert all(torch.equal(tensor, mean[name]) for name, tensor in tensors_of(path).items())


def test_a_mean_predicts_like_any_checkpoint(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    paths = [save_tiny_checkpoint(name, seed=seed) for seed, name in enumerate("ab")]

    mean = average_checkpoints(paths, tmp_path / "mean")

    frames, num_frames = torch.rand(2, 3, 12), torch.tensor([3, 1])
    a, b = (load_model(path)[0](frames, num_frames) for path in paths)  # logistic: its logits are linear in its weights
    torch.testing.assert_close(Predictor.from_path(mean).model(frames, num_frames), (a + b) / 2)


def test_checkpoints_elsewhere_have_a_mean_too(
    save_tiny_checkpoint: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YT8M_CACHE", str(tmp_path / "cache"))
    paths = [save_tiny_checkpoint(name, seed=seed) for seed, name in enumerate("ab")]

    mean = average_checkpoints([f"file://{path}" for path in paths], tmp_path / "mean")

    a, b = (tensors_of(path) for path in paths)
    for name, tensor in tensors_of(mean).items():
        torch.testing.assert_close(tensor, (a[name] + b[name]) / 2)
    manifest = json.loads((mean / "manifest.json").read_text())
    assert manifest["averaged_from"] == [f"file://{path}" for path in paths]


def test_the_manifest_says_what_was_averaged(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    path = save_tiny_checkpoint()

    mean = average_checkpoints([path, path], tmp_path / "mean", weights=[0.25, 0.75])

    manifest = json.loads((mean / "manifest.json").read_text())
    assert (manifest["averaged_from"], manifest["weights"]) == ([str(path)] * 2, [0.25, 0.75])


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"name": "moe"}}, "model.name is 'moe', 'logistic' in"),
        ({"model": {"name": "logistic", "l2": 0.5}}, "model.l2 is 0.5"),
        ({"data": {"num_classes": 31}}, "data.num_classes is 31, 30 in"),
        ({"data": {"features": {"audio": 4, "rgb": 8}}}, r"data.features is \{'audio': 4, 'rgb': 8\}, \{'rgb': 8"),
    ],
)
def test_checkpoints_that_have_no_mean_are_named(
    save_tiny_checkpoint: Save, tmp_path: Path, sections: dict[str, dict[str, object]], message: str
) -> None:
    first, other = save_tiny_checkpoint("first"), save_tiny_checkpoint("other", **sections)

    with pytest.raises(ConfigError, match=f"{other}: no mean of different models: .*{message}"):
        average_checkpoints([first, other], tmp_path / "mean")


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.6], [1.5, -0.5]])
def test_shares_that_are_none_are_refused(save_tiny_checkpoint: Save, tmp_path: Path, weights: list[float]) -> None:
    path = save_tiny_checkpoint()

    with pytest.raises(ConfigError, match=r"^weights: expected"):
        average_checkpoints([path, path], tmp_path / "mean", weights=weights)


def test_a_damaged_checkpoint_leaves_no_mean(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    first, other = save_tiny_checkpoint("first"), save_tiny_checkpoint("other")
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])

    with pytest.raises(CheckpointError, match="bytes expected"):
        average_checkpoints([first, other], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize("name", ["first", "other"])
def test_weights_that_are_not_finite_make_no_mean(save_tiny_checkpoint: Save, tmp_path: Path, name: str) -> None:
    paths = {each: save_tiny_checkpoint(each) for each in ("first", "other")}
    tensors = {key: tensor.clone() for key, tensor in tensors_of(paths[name]).items()}
    tensors["head.linear.weight"][3, 2] = float("inf")
    save_file(tensors, paths[name] / "model.safetensors")
    (paths[name] / "manifest.json").unlink()
    write_manifest(paths[name], {"kind": "checkpoint"})

    with pytest.raises(CheckpointError, match=rf"{name}/model\.safetensors: head\.linear\.weight: expected finite"):
        average_checkpoints(list(paths.values()), tmp_path / "mean")
    assert not (tmp_path / "mean").exists()

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from yt8m_ray.checkpoint import (
    CheckpointError,
    NoSuchFolderError,
    checkpoint_name,
    latest_checkpoint,
    load_config,
    load_model,
    write_manifest,
)

Save = Callable[..., Path]


def test_a_loaded_model_gives_the_same_logits(save_tiny_checkpoint: Save) -> None:
    path = save_tiny_checkpoint(model={"name": "netvlad", "num_clusters": 4, "hidden_dim": 6})
    frames, num_frames = torch.rand(3, 5, 12), torch.tensor([5, 1, 3])

    first, second = load_model(path)[0], load_model(path)[0]

    assert not first.training
    torch.testing.assert_close(first(frames, num_frames), second(frames, num_frames), rtol=0, atol=0)


def test_the_config_holds_every_default(save_tiny_checkpoint: Save) -> None:
    path = save_tiny_checkpoint()

    assert "learning_rate: 0.01" in (path / "config.yaml").read_text()
    assert load_config(path).data.num_classes == 30


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors", "state.safetensors"])
def test_a_missing_file_is_named(save_tiny_checkpoint: Save, name: str) -> None:
    path = save_tiny_checkpoint()
    (path / name).unlink()

    with pytest.raises(CheckpointError, match=f"{name}: listed in the manifest, but missing"):
        load_model(path)


def test_a_file_that_was_cut_short_is_refused(save_tiny_checkpoint: Save) -> None:
    path = save_tiny_checkpoint()
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])

    with pytest.raises(CheckpointError, match=r"model.safetensors: \d+ bytes expected, \d+ found"):
        load_model(path)


def test_a_flipped_bit_is_found(save_tiny_checkpoint: Save) -> None:
    path = save_tiny_checkpoint()
    weights = bytearray((path / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (path / "model.safetensors").write_bytes(weights)

    with pytest.raises(CheckpointError, match="do not match the hash"):
        load_model(path)


def test_a_pickle_in_the_place_of_weights_is_refused(save_tiny_checkpoint: Save) -> None:
    path = save_tiny_checkpoint()
    (path / "model.safetensors").write_bytes(pickle.dumps({"weight": 1}))
    (path / "manifest.json").unlink()
    write_manifest(path, {"kind": "checkpoint"})

    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_model(path)


def test_weights_of_another_model_are_listed(save_tiny_checkpoint: Save) -> None:
    path, other = save_tiny_checkpoint(), save_tiny_checkpoint("other", model={"name": "moe"})
    (path / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    (path / "manifest.json").unlink()
    write_manifest(path, {"kind": "checkpoint"})

    with pytest.raises(CheckpointError, match=r"experts.weight is unexpected; .*linear.weight is missing"):
        load_model(path)


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint: manifest.json is missing"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"kind": "bundle"}, "expected a checkpoint, found a bundle"), ({"format_version": 9}, "format version 9 found")],
)
def test_another_kind_or_version_is_refused(
    save_tiny_checkpoint: Save, change: dict[str, object], message: str
) -> None:
    path = save_tiny_checkpoint()
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | change))

    with pytest.raises(CheckpointError, match=message):
        load_model(path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"expected the files \['config.yaml', 'model.safetensors', 'state.safetensors'\], found \[\]"),
        ({"x": 3}, "'x': expected its bytes and sha256, found 3"),
        ({"x": {"bytes": 3}}, "'x': expected its bytes and sha256"),
        ({"../outside": {"bytes": 0, "sha256": ""}}, "'../outside' lies outside the folder"),
        ({"/etc/passwd": {"bytes": 0, "sha256": ""}}, "'/etc/passwd' lies outside the folder"),
    ],
)
def test_a_manifest_that_does_not_list_the_folders_own_files_is_refused(
    save_tiny_checkpoint: Save, files: dict[str, object], message: str
) -> None:
    path = save_tiny_checkpoint()
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"] = {**manifest["files"], **files} if files else {}
    (path / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(CheckpointError, match=message):
        load_model(path)


def test_the_latest_checkpoint_is_the_last_intact_one(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    for step in (5, 40, 300):
        save_tiny_checkpoint(checkpoint_name(epoch=0, step=step))
    (tmp_path / checkpoint_name(epoch=0, step=300) / "state.safetensors").write_bytes(b"")

    assert latest_checkpoint(tmp_path) == tmp_path / checkpoint_name(epoch=0, step=40)


def test_a_folder_without_checkpoints_has_no_latest(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("load", [load_model, load_config])
def test_a_missing_folder_is_the_arguments_fault(load: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(NoSuchFolderError, match="nothing: no checkpoint: there is no such folder"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize("load", [load_model, load_config])
def test_another_folder_is_no_checkpoint(load: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint: .* is missing") as caught:
        load(tmp_path)

    assert not isinstance(caught.value, NoSuchFolderError)

from __future__ import annotations

import json
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from yt8m_ray.artifacts.checkpoint import adopt_checkpoint, initialize, is_finite, load_model, read_tensors
from yt8m_ray.artifacts.checkpoint_folders import checkpoint_name, latest_checkpoint, load_config
from yt8m_ray.artifacts.folder_manifest import CheckpointError, NoSuchFolderError, read_manifest, write_manifest
from yt8m_ray.config.document import override, to_yaml
from yt8m_ray.models import build_model

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


def reseal(path: Path) -> None:
    (path / "manifest.json").unlink()
    write_manifest(path, {"kind": "checkpoint"})


def change_bias(path: Path, change: Callable[[torch.Tensor], torch.Tensor], *, name: str = "head.linear.bias") -> None:
    tensors = {key: tensor.clone() for key, tensor in read_tensors(path).items()}
    tensors[name] = change(tensors[name])
    save_file(tensors, path)
    reseal(path.parent)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(save_tiny_checkpoint: Save, value: float) -> None:
    path = save_tiny_checkpoint()
    change_bias(path / "model.safetensors", lambda bias: bias.index_fill(0, torch.tensor([7]), value))

    message = r"model\.safetensors: head\.linear\.bias: expected finite weights, found NaN or infinity"
    with pytest.raises(CheckpointError, match=message):
        load_model(path)
    with pytest.raises(CheckpointError, match=message):
        initialize(build_model({"name": "logistic"}, feature_sizes=[8, 4], num_classes=30), path)


def test_a_moving_average_that_is_not_finite_is_refused(save_tiny_checkpoint: Save) -> None:
    path = save_tiny_checkpoint(ema={"decay": 0.9})
    change_bias(path / "ema.safetensors", lambda bias: bias * float("nan"))

    load_model(path, ema=False)
    with pytest.raises(CheckpointError, match=r"ema\.safetensors: head\.linear\.bias: expected finite weights"):
        load_model(path, ema=True)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.num_classes", 1_000_000, r"head\.linear\.bias is \[30\], expected \[1000000\]; head\.linear\.weight is"),
        ("data.num_classes", 10**15, r"head\.linear\.bias is \[30\], expected \[1000000000000000\]"),
        ("data.features.rgb", 10**9, r"head\.linear\.weight is \[30, 12\], expected \[30, 1000000004\]"),
        ("model", {"name": "moe", "num_mixtures": 10**9}, r"head\.experts\.bias is missing"),
    ],
)
def test_a_config_of_another_model_is_refused_before_the_model_takes_memory(
    save_tiny_checkpoint: Save, key: str, value: Any, message: str
) -> None:
    path = save_tiny_checkpoint()
    (path / "config.yaml").write_text(to_yaml(override(load_config(path), {key: value})))
    reseal(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(CheckpointError, match=rf"model\.safetensors: weights do not fit the model: .*{message}"):
        load_model(path)
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 100_000
    )  # KB; 10^6 classes would be 52,000 more


def test_a_config_of_a_model_that_no_machine_could_hold_is_refused(save_tiny_checkpoint: Save) -> None:
    path = save_tiny_checkpoint()
    text = (path / "config.yaml").read_text().replace("num_classes: 30", f"num_classes: {10**18}")
    (path / "config.yaml").write_text(text)
    reseal(path)

    with pytest.raises(ValueError, match=r"config\.yaml: data\.num_classes: Input should be less than"):
        load_model(path)


def test_weights_of_another_type_are_refused(save_tiny_checkpoint: Save) -> None:
    path = save_tiny_checkpoint()
    change_bias(path / "model.safetensors", lambda bias: bias.double())

    with pytest.raises(CheckpointError, match=r"head\.linear\.bias is F64, expected F32"):
        load_model(path)


def test_a_loaded_model_depends_on_its_file_no_longer(save_tiny_checkpoint: Save) -> None:
    path = save_tiny_checkpoint()
    model, _ = load_model(path)
    before = model.state_dict()["head.linear.bias"].clone()

    (path / "model.safetensors").write_bytes(b"")

    assert torch.equal(model.state_dict()["head.linear.bias"], before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_is_no_number_is_found_in_any_float_and_not_in_other_tensors() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        assert is_finite(torch.tensor([0.0, -3e4], dtype=dtype))
        for value in (float("nan"), float("inf"), float("-inf")):
            assert not is_finite(torch.tensor([[1.0], [value]], dtype=dtype))
    assert is_finite(torch.tensor([1, 2])) and is_finite(torch.empty(0, 3))
    assert is_finite(torch.full((4,), 3e38))  # their sum would not be


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


def bias_of(model: torch.nn.Module) -> torch.Tensor:
    return model.state_dict()["head.linear.bias"]


@pytest.mark.parametrize(
    ("evaluate", "ema", "is_average"),
    [(True, None, True), (False, None, False), (True, False, False), (False, True, True)],
)
def test_the_average_is_taken_where_it_was_validated_or_is_asked_for(
    save_tiny_checkpoint: Save, evaluate: bool, ema: bool | None, is_average: bool
) -> None:
    path = save_tiny_checkpoint(ema={"decay": 0.9, "evaluate": evaluate})
    raw = read_tensors(path / "model.safetensors")["head.linear.bias"]

    found = bias_of(load_model(path, ema=ema)[0])

    assert torch.equal(found, -raw if is_average else raw)


def test_an_average_that_is_not_there_is_refused(save_tiny_checkpoint: Save) -> None:
    with pytest.raises(CheckpointError, match="has no moving average of its weights"):
        load_model(save_tiny_checkpoint(), ema=True)


def test_a_model_for_other_classes_takes_what_fits_and_names_the_rest(save_tiny_checkpoint: Save) -> None:
    config = {"name": "netvlad", "num_clusters": 4, "hidden_dim": 6}
    path = save_tiny_checkpoint(model=config)
    torch.manual_seed(1)
    model = build_model(config, feature_sizes=(8, 4), num_classes=5)
    head_before = {name: tensor.clone() for name, tensor in model.head.state_dict().items()}

    new = initialize(model, path)

    saved = read_tensors(path / "model.safetensors")
    assert new
    assert all(name.startswith("head.") for name in new)
    assert all(
        torch.equal(model.head.state_dict()[name.removeprefix("head.")], head_before[name.removeprefix("head.")])
        for name in new
    )
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items() if name not in new)


def test_weights_that_do_not_fit_at_all_are_refused(save_tiny_checkpoint: Save) -> None:
    model = build_model({"name": "logistic"}, feature_sizes=(7,), num_classes=5)

    with pytest.raises(CheckpointError, match="none of its 2 weights fits the model by name and shape"):
        initialize(model, save_tiny_checkpoint())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_adopted_checkpoint_has_the_same_weights_and_another_config(
    save_tiny_checkpoint: Save, tmp_path: Path
) -> None:
    source = save_tiny_checkpoint(ema={"decay": 0.5})
    before = contents(source)
    config = override(load_config(source), {"run.name": "other", "optimizer.learning_rate": 0.5})

    adopt_checkpoint(source, tmp_path / "runs" / "other", config)

    found = contents(tmp_path / "runs" / "other")
    changed = {name for name in before if found[name] != before[name]}
    assert (found.keys(), changed) == (before.keys(), {"config.yaml", "manifest.json"})
    assert load_config(tmp_path / "runs" / "other") == config
    assert torch.equal(bias_of(load_model(tmp_path / "runs" / "other")[0]), bias_of(load_model(source)[0]))
    assert contents(source) == before
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["other"]


def test_an_adopted_checkpoint_keeps_what_its_manifest_knows(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    source = save_tiny_checkpoint()
    (source / "manifest.json").unlink()
    write_manifest(source, {"kind": "checkpoint", "metrics": {"validation/gap": 0.5}})

    adopt_checkpoint(source, tmp_path / "other", load_config(source))

    assert read_manifest(tmp_path / "other", kind="checkpoint")["metrics"] == {"validation/gap": 0.5}


def test_an_adopted_checkpoint_has_its_teacher(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    source, teacher = save_tiny_checkpoint(), save_tiny_checkpoint("another", seed=1)
    teacher.rename(source / "teacher")
    (source / "manifest.json").unlink()
    write_manifest(source, {"kind": "checkpoint"})

    adopt_checkpoint(source, tmp_path / "other", override(load_config(source), {"run.name": "other"}))

    assert load_config(tmp_path / "other" / "teacher").run.name == "tiny"
    assert contents(tmp_path / "other" / "teacher") == contents(source / "teacher")
    load_model(tmp_path / "other" / "teacher")


def test_a_broken_checkpoint_is_not_adopted(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    source = save_tiny_checkpoint()
    config = load_config(source)
    (source / "model.safetensors").write_bytes(b"")

    with pytest.raises(CheckpointError, match=r"model.safetensors: \d+ bytes expected, 0 found"):
        adopt_checkpoint(source, tmp_path / "runs" / "other", config)
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_holds_something_is_not_adopted_into(save_tiny_checkpoint: Save, tmp_path: Path) -> None:
    source = save_tiny_checkpoint()
    taken = tmp_path / "runs" / "other"
    taken.mkdir(parents=True)
    (taken / "mine").write_text("mine")

    with pytest.raises(OSError, match="not empty"):
        adopt_checkpoint(source, taken, load_config(source))
    assert contents(tmp_path / "runs") == {"other/mine": b"mine"}


def test_a_checkpoint_that_is_removed_while_it_is_read_is_passed_over(
    save_tiny_checkpoint: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_tiny_checkpoint()
    folder = path.rename(path.with_name("epoch_0001_step_000000001"))
    opened = Path.open

    def open_late(path: Path, mode: str = "r") -> Any:
        shutil.rmtree(folder, ignore_errors=True)
        return opened(path, mode)

    monkeypatch.setattr(Path, "open", open_late)

    assert latest_checkpoint(folder.parent) is None

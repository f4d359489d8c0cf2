"""Checkpoints on a full disk, and ones whose writer is killed."""

from __future__ import annotations

import functools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from yt8m_ray.artifacts.checkpoint import load_model, read_tensors, save_checkpoint
from yt8m_ray.artifacts.checkpoint_folders import checkpoint_name, latest_checkpoint
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.models import Model, build_model
from yt8m_ray.training.run.checkpoints import CheckpointWriteError, LocalCheckpoints, superfluous

NUM_KILLS = 100 if os.environ.get("YT8M_SOAK") == "1" else 5
NUM_CLASSES = 500


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    data = {"features": {"rgb": 64}, "num_classes": NUM_CLASSES}
    return TrainConfig.model_validate({"run": {"name": "run"}, "data": data, "model": {"name": "logistic"}})


@pytest.fixture(scope="module")
def model(config: TrainConfig) -> Model:
    return build_model(config.model, feature_sizes=config.data.feature_sizes, num_classes=NUM_CLASSES)


Save = Callable[..., str]


@pytest.fixture
def save(config: TrainConfig, model: Model, tmp_path: Path) -> Save:
    """Returns save(step, gap=None): a checkpoint all of whose weights are its step."""

    def save(step: int, *, gap: float | None = None, num_to_keep: int = 2) -> str:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(step)
        name = checkpoint_name(epoch=0, step=step)
        write = functools.partial(
            save_checkpoint,
            config=config,
            model=model,
            state={"progress.step": torch.tensor(step)},
            facts={"metrics": {} if gap is None else {"validation/gap": gap}},
        )
        LocalCheckpoints(tmp_path, num_to_keep=num_to_keep).save(name, write)
        return name

    return save


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def in_child(action: Callable[[], None]) -> int:
    """Starts a process that does `action` and returns its number; exit code 3 says that a checkpoint failed."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        action()
        code = 0
    except CheckpointWriteError as error:
        print(error, flush=True)
        code = 3
    finally:
        os._exit(code)


def test_the_best_and_the_last_stay(save: Save, tmp_path: Path) -> None:
    kept = [save(step, gap=gap, num_to_keep=2) for step, gap in enumerate([0.5, 0.9, 0.2, 0.7, 0.1])]

    assert names(tmp_path) == [kept[1], kept[3], kept[4]]


def test_a_checkpoint_inside_an_epoch_goes_before_one_that_was_validated(save: Save, tmp_path: Path) -> None:
    kept = [save(step, gap=gap, num_to_keep=1) for step, gap in enumerate([0.5, None, None])]

    assert names(tmp_path) == [kept[0], kept[2]]


def test_a_broken_checkpoint_of_the_same_name_is_replaced(save: Save, tmp_path: Path) -> None:
    (tmp_path / save(1) / "model.safetensors").write_bytes(b"half")

    again = save(1)

    assert latest_checkpoint(tmp_path) == tmp_path / again
    assert names(tmp_path) == [again]


def test_what_does_not_fit_leaves_the_previous_checkpoint(
    save: Save, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = save(1)

    def save_little() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # the weights have 128,000 bytes
        save(2)

    _, status = os.waitpid(in_child(save_little), 0)

    assert os.waitstatus_to_exitcode(status) == 3
    said = capfd.readouterr().out
    assert said.startswith(f"{tmp_path / checkpoint_name(epoch=0, step=2)}: the checkpoint cannot be written: ")
    assert "File too large" in said
    assert said.endswith(f"; the last one is {before}\n")
    assert names(tmp_path) == [before]
    load_model(tmp_path / before)


def test_a_full_disk_leaves_the_previous_checkpoint(save: Save, tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        before = save(1)  # each takes 140 kB
        with pytest.raises(CheckpointWriteError, match=rf"No space left on device.*; the last one is {before}$"):
            save(2)
        assert names(tmp_path) == [before]
        load_model(tmp_path / before)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_writer_killed_at_any_moment_leaves_no_checkpoint_that_loads_wrong(save: Save, tmp_path: Path) -> None:
    def save_many(first: int) -> None:
        for step in range(first, first + 1000):
            save(step)

    rng, step, started = random.Random(0), 0, time.monotonic()
    save(step)
    longest_s = max(0.1, 10 * (time.monotonic() - started))  # so that a slow machine writes some too
    for _ in range(NUM_KILLS):
        child = in_child(functools.partial(save_many, step + 1))
        time.sleep(rng.uniform(0.0, longest_s))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

        latest = latest_checkpoint(tmp_path)
        assert latest is not None
        before, step = step, int(read_tensors(latest / "state.safetensors")["progress.step"])
        assert step >= before
        assert latest.name == checkpoint_name(epoch=0, step=step)
        weights = torch.cat([parameter.flatten() for parameter in load_model(latest)[0].parameters()])
        assert torch.all(weights == step)
        assert json.loads((latest / "manifest.json").read_text())["files"].keys() == {
            "config.yaml",
            "model.safetensors",
            "state.safetensors",
        }
    save(step + 1)
    assert not [name for name in names(tmp_path) if name.startswith(".")]
    assert step > 0


def test_a_validation_without_a_label_ranks_below_all_others() -> None:
    gaps = {"epoch_1": 0.3, "epoch_2": float("nan"), "epoch_3": 0.1, "epoch_4": float("nan")}
    manifests = {name: json.dumps({"metrics": {"validation/gap": gap}}).encode() for name, gap in gaps.items()}

    assert superfluous(manifests, num_to_keep=2) == ["epoch_2"]


@pytest.mark.parametrize("manifest", [None, b"cut sho", b"[]", b"{}", b'{"metrics": []}'])
def test_what_has_no_manifest_ranks_below_what_was_not_validated(manifest: bytes | None) -> None:
    others = dict.fromkeys(["epoch_1", "epoch_3"], b'{"metrics": {}}')

    assert superfluous({"epoch_2": manifest, **others}, num_to_keep=2) == ["epoch_2"]


def test_a_run_whose_folder_was_removed_says_so(save: Save, tmp_path: Path) -> None:
    save(1)
    shutil.rmtree(tmp_path)

    with pytest.raises(CheckpointWriteError, match=r"the folder of the run was removed while the run was at work"):
        save(2)


def test_a_run_whose_folder_is_renamed_while_it_writes_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()

    def write(aside: Path) -> None:
        aside.parent.rename(tmp_path / "removed")

    with pytest.raises(CheckpointWriteError, match=r"the folder of the run was removed while the run was at work"):
        LocalCheckpoints(folder, num_to_keep=1).save("epoch_0000", write)

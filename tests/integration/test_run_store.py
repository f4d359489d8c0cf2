"""A run whose output is an object store: what it keeps there, and what other verbs find."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.integration.conftest import Shards
from tests.integration.test_train import config_of
from tests.support.object_store import BUCKET, ENVIRONMENT, ObjectStore
from yt8m_ray.artifacts.checkpoint import load_model, save_checkpoint
from yt8m_ray.artifacts.checkpoint_folders import checkpoint_name
from yt8m_ray.artifacts.folder_manifest import CheckpointError, NoSuchFolderError, local_folder
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.storage.folders import list_folders, read_file, write_file
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.locate import locate_model
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.models import build_model
from yt8m_ray.tracking.history import History, read_curves
from yt8m_ray.training.run.checkpoints import CheckpointWriteError
from yt8m_ray.training.run.run_folder import RunRecord
from yt8m_ray.training.run.run_store import RunStore, StoredCheckpoints
from yt8m_ray.training.steps.teachers import TEACHER_FOLDER, build_teacher, save_teacher


@pytest.fixture(scope="module")
def running_store() -> Iterator[ObjectStore]:
    with ObjectStore() as store:
        yield store


@pytest.fixture
def store(running_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ObjectStore:
    running_store.heal()
    variables = {**ENVIRONMENT, "AWS_ENDPOINT_URL": running_store.url, "AWS_MAX_ATTEMPTS": "2"}
    for name, value in {**variables, "YT8M_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    return running_store


Save = Callable[..., str]


@pytest.fixture
def save(store: ObjectStore, request: pytest.FixtureRequest) -> Save:
    """Returns save(step, gap): keeps a checkpoint of a run of this test's own, and returns its URI."""
    config = TrainConfig.model_validate(
        {
            "run": {"name": "run"},
            "data": {"features": {"rgb": 4}, "num_classes": 3},
            "model": {"name": "logistic"},
        }
    )
    model = build_model(config.model, feature_sizes=config.data.feature_sizes, num_classes=3)
    run = f"s3://{BUCKET}/{request.node.name}/run"

    def save(step: int, gap: float = 0.0) -> str:
        facts = {"metrics": {"validation/gap": gap}}
        state = {"progress.step": torch.tensor(step)}
        write = functools.partial(save_checkpoint, config=config, model=model, state=state, facts=facts)
        name = checkpoint_name(epoch=0, step=step)
        StoredCheckpoints(run, num_to_keep=1).save(name, write)
        return f"{run}/{name}"

    return save


def test_the_teacher_in_a_checkpoint_is_stored_and_fetched_with_it(store: ObjectStore) -> None:
    config = TrainConfig.model_validate(
        {
            "run": {"name": "pair"},
            "data": {"features": {"rgb": 4}, "num_classes": 3},
            "model": {"name": "logistic"},
            "teacher": {"model": {"name": "moe", "num_mixtures": 3}, "representation_weight": 0},
        }
    )
    model = build_model(config.model, feature_sizes=config.data.feature_sizes, num_classes=3)
    teacher = build_teacher(config)
    assert teacher is not None

    def write(folder: Path) -> None:
        save_teacher(folder / TEACHER_FOLDER, config=config, model=teacher)
        save_checkpoint(folder, config=config, model=model, state={}, facts={"metrics": {}})

    stored = StoredCheckpoints(f"s3://{BUCKET}/pair/run", num_to_keep=1)
    name = checkpoint_name(epoch=0, step=1)
    stored.save(name, write)

    assert stored.latest() == name
    loaded, _ = load_model(stored.path(name) / TEACHER_FOLDER)
    torch.testing.assert_close(dict(loaded.state_dict()), dict(teacher.state_dict()))


def test_a_stored_checkpoint_can_be_loaded_and_is_fetched_once(save: Save, store: ObjectStore) -> None:
    uri = save(1)
    load_model(local_folder(uri))
    store.heal()

    load_model(local_folder(uri))

    assert [path for method, path, _ in store.requests if path.endswith(".safetensors")] == []


def test_the_best_and_the_last_stay_in_the_store(save: Save) -> None:
    uris = [save(step, gap) for step, gap in enumerate([0.2, 0.9, 0.5, 0.4])]

    run = uris[0].rpartition("/")[0]
    assert list_folders(run, "epoch_*", last="manifest.json") == [uri.rpartition("/")[2] for uri in (uris[1], uris[3])]


def test_a_checkpoint_whose_write_was_cut_short_is_none(save: Save) -> None:
    uri = save(1)
    run = uri.rpartition("/")[0]
    write_file(b"half", f"{run}/{checkpoint_name(epoch=0, step=2)}/model.safetensors")

    assert StoredCheckpoints(run, num_to_keep=1).latest() == checkpoint_name(epoch=0, step=1)


def test_a_damaged_checkpoint_is_refused_and_passed_over(save: Save) -> None:
    save(1, 0.5)
    uri = save(2)
    write_file(b"other", f"{uri}/model.safetensors")

    with pytest.raises(CheckpointError, match=r"model.safetensors: \d+ bytes expected, 5 found"):
        local_folder(uri)
    assert StoredCheckpoints(uri.rpartition("/")[0], num_to_keep=1).latest() == checkpoint_name(epoch=0, step=1)


def test_a_bundle_in_a_tar_is_unpacked_from_the_store_once(
    store: ObjectStore, write_tiny_bundle: Callable[..., Path]
) -> None:
    uri = f"s3://{BUCKET}/bundles/x.tar"
    write_file(write_tiny_bundle("x.tar").read_bytes(), uri)
    assert Predictor.from_path(uri).self_check() == 3
    store.heal()

    assert Predictor.from_path(uri).self_check() == 3

    assert (
        len([path for method, path, _ in store.requests if method == "GET"]) <= 3
    )  # the head of the tar, its manifest


def test_a_damaged_tar_in_the_store_is_refused(store: ObjectStore, write_tiny_bundle: Callable[..., Path]) -> None:
    content = write_tiny_bundle("x.tar").read_bytes()
    uri = f"s3://{BUCKET}/bundles/cut.tar"
    write_file(content[: len(content) // 2], uri)

    with pytest.raises(CheckpointError, match=rf"^s3://{BUCKET}/bundles/cut\.tar: "):
        locate_model(uri)
    with pytest.raises(NoSuchFolderError, match=rf"^s3://{BUCKET}/bundles/none\.tar: no bundle: there is no such file"):
        locate_model(f"s3://{BUCKET}/bundles/none.tar")


def test_what_is_not_there_is_no_checkpoint(store: ObjectStore) -> None:
    with pytest.raises(NoSuchFolderError, match=rf"^s3://{BUCKET}/nothing: no checkpoint"):
        local_folder(f"s3://{BUCKET}/nothing")


def test_a_store_that_refuses_leaves_the_earlier_checkpoints(save: Save, store: ObjectStore) -> None:
    uri = save(1)
    store.always = "403"

    with pytest.raises(CheckpointWriteError, match=r"step_000000002: the checkpoint cannot .*refuses access"):
        save(2)

    store.heal()
    assert StoredCheckpoints(uri.rpartition("/")[0], num_to_keep=1).latest() == checkpoint_name(epoch=0, step=1)


def test_another_machine_continues_the_curves_of_a_run_and_has_its_report(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = TrainConfig.model_validate(
        {
            "output": f"s3://{BUCKET}/moved",
            "run": {"name": "run"},
            "model": {"name": "logistic"},
            "tracking": {"uri": "http://127.0.0.1:1"},
        }
    )
    here = RunStore(config)
    here.folder.mkdir(parents=True)
    History(here.folder).append({"train/loss": 1.0}, 10)
    (here.folder / "report").mkdir()
    (here.folder / "report" / "report.html").write_text("<html>")
    here.record(RunRecord("stopped", ""))
    monkeypatch.setenv("YT8M_CACHE", str(tmp_path / "another"))
    there = RunStore(config)

    there.pull()

    History(there.folder).append({"train/loss": 0.5}, 20)
    assert read_curves(there.folder)["train/loss"][0].tolist() == [10, 20]
    assert read_file(f"s3://{BUCKET}/moved/run/report/report.html") == b"<html>"


def test_an_output_in_a_store_needs_a_place_for_mlflow(shards: Shards, store: ObjectStore) -> None:
    with pytest.raises(ConfigError, match=r"^tracking.uri: expected an address"):
        RunStore(config_of(shards, Path("unused"), "run").model_copy(update={"output": f"s3://{BUCKET}/runs"}))

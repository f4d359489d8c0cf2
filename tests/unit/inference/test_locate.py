"""What a name of a model means, and what is said where nothing has that name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.tiny import save_checkpoint_of, write_bundle_of
from yt8m_ray.artifacts.archive import write_archive
from yt8m_ray.artifacts.folder_manifest import MANIFEST_FILE, NoSuchFolderError
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.locate import is_bundle, locate_checkpoint, locate_model
from yt8m_ray.inference.mlflow_model.registration import register_bundle
from yt8m_ray.tracking.models import CHECKPOINT_PATH, register_folder
from yt8m_ray.tracking.runs import Tracker, TrackingError, default_uri

FIRST, BEST, LAST = (f"epoch_000{epoch}_step_00000000{epoch}" for epoch in (1, 2, 3))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the run `moe`, the search `tune_moe`, and `bundle` as folder and tar."""
    place = tmp_path_factory.mktemp("models")
    (place / "moe").mkdir()
    for name, gap in ((FIRST, 0.3), (BEST, 0.5), (LAST, 0.4)):
        checkpoint = save_checkpoint_of(place / "moe" / name)
        manifest = json.loads((checkpoint / MANIFEST_FILE).read_text())
        manifest["metrics"] = {"validation/gap": gap}
        (checkpoint / MANIFEST_FILE).write_text(json.dumps(manifest))
    shutil.copytree(place / "moe" / BEST, place / "tune_moe" / "best" / "checkpoint")
    shutil.copy(place / "moe" / BEST / "config.yaml", place / "tune_moe" / "best")
    write_archive(write_bundle_of(place / "bundle"), place / "bundle.tar")
    (place / "begun").mkdir()
    (place / "begun" / "run.json").touch()
    (place / "empty").mkdir()
    (place / "some.csv").touch()
    return place


@pytest.fixture
def _here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("YT8M_CACHE", str(tmp_path / "cache"))


pytestmark = pytest.mark.usefixtures("_here")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("moe", f"moe/{BEST}"),
        (f"moe/{LAST}", f"moe/{LAST}"),
        ("tune_moe", "tune_moe/best/checkpoint"),
        ("tune_moe/best", "tune_moe/best/checkpoint"),
        ("tune_moe/best/checkpoint", "tune_moe/best/checkpoint"),
        ("bundle", "bundle"),
    ],
)
def test_a_folder_is_what_it_holds(place: Path, name: str, found: str) -> None:
    assert locate_model(name) == locate_model(place / name) == place / found


def test_a_tar_is_its_bundle(place: Path) -> None:
    folder = locate_model("bundle.tar")

    assert (folder / MANIFEST_FILE).read_bytes() == (place / "bundle" / MANIFEST_FILE).read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "moe/epoch_0000_step_000000009",
            f"this checkpoint is gone; the run has {FIRST}, {BEST}, {LAST}",
        ),
        ("moee", "there is no such folder; {} holds begun, bundle, "),
        ("no/where/moe", "there is no such folder; {} holds begun, bundle, "),
        ("bundel.tar", "there is no such file; {} holds begun, bundle, "),
        ("some.csv", "a file; a model is a folder, or a bundle's .tar"),
        ("begun", "a run that has no checkpoint yet"),
        ("empty", "no run, checkpoint or bundle; the folder holds nothing"),
        (".", "a folder of several models; name one of them: bundle, "),
    ],
)
def test_what_is_not_there_is_said_with_what_is(place: Path, name: str, message: str) -> None:
    with pytest.raises(NoSuchFolderError, match=f"^{re.escape(f'{name}: {message.format(place)}')}"):
        locate_model(name)


def test_a_broken_checkpoint_of_a_run_is_passed_over(place: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(place / "moe", tmp_path / "moe"))
    (run / BEST / "model.safetensors").write_bytes(b"")

    assert locate_model(run) == run / LAST


def test_a_bundle_is_no_checkpoint() -> None:
    with pytest.raises(ConfigError, match=r"^bundle: expected a checkpoint, found a bundle"):
        locate_checkpoint("bundle")


@pytest.fixture(scope="module")
def store(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """Returns a store of MLflow, a run with a checkpoint, and a run without anything."""
    output = tmp_path_factory.mktemp("runs")
    uri = default_uri(output)
    trackers = [
        Tracker.start(uri, experiment="test", run_name=name, params={}, artifact_path=output / "mlartifacts")
        for name in ("moe", "nothing")
    ]
    trackers[0].log_artifacts(place / "moe" / BEST, artifact_path=CHECKPOINT_PATH)
    register_bundle(place / "bundle", uri, name="videos", alias="champion", experiment="test")
    register_folder(uri, trackers[0].run_id, place / "moe" / BEST, name="winner", alias="best")
    return uri, trackers[0].run_id, trackers[1].run_id


@pytest.fixture
def asked(store: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str, str]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store[0])
    return store


def test_uris_of_mlflow_are_the_bundle_or_the_checkpoint_there(place: Path, asked: tuple[str, str, str]) -> None:
    uri, with_checkpoint, _ = asked
    bundle_run = MlflowClient(uri).get_model_version("videos", "1").run_id
    version = (place / "bundle" / MANIFEST_FILE).read_bytes()

    for name in ("models:/videos@champion", "models:/videos/1", f"runs:/{bundle_run}"):
        folder = locate_model(name)
        assert is_bundle(folder) and (folder / MANIFEST_FILE).read_bytes() == version
    best = (place / "moe" / BEST / MANIFEST_FILE).read_bytes()
    for name in (f"runs:/{with_checkpoint}", f"runs:/{with_checkpoint}/{CHECKPOINT_PATH}", "models:/winner@best"):
        assert (locate_model(name) / MANIFEST_FILE).read_bytes() == best


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("models:/videos@nobody", "sqlite:.*alias nobody not found"),
        ("models:/nobody@champion", "sqlite:.*nobody"),
        ("models:/videos", "expected models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("runs:/0123", "sqlite:.*0123"),
        ("runs:/{nothing}", "the run has no checkpoint and no bundle in sqlite:.*; its artifacts: none"),
        ("runs:/{nothing}/else", "sqlite:.*else"),
    ],
)
def test_what_mlflow_does_not_have_is_named_with_its_store(
    asked: tuple[str, str, str], name: str, message: str
) -> None:
    with pytest.raises((ConfigError, TrackingError), match=f"(?i){message}"):
        locate_model(name.format(nothing=asked[2]))

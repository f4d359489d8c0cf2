"""`models:/...` as the place of a bundle, against a real store of MLflow in SQLite."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.tiny import write_bundle_of
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.mlflow_model.registration import register_bundle
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.tracking.models import fetch_model, log_model, register_model, registered_name, resolve_model
from yt8m_ray.tracking.runs import Tracker, TrackingError, default_uri


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle_of(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> str:
    """Returns a store in which versions 1 of `videos` is a bundle, 2 is no model of ours, and `champion` is 1."""
    output = tmp_path_factory.mktemp("runs")
    uri = default_uri(output)
    register_bundle(bundle, uri, name="videos", alias="champion", experiment="test")
    tracker = Tracker.start(uri, experiment="test", run_name="x", params={}, artifact_path=output / "mlartifacts")
    (output / "other").mkdir()
    (output / "other" / "MLmodel").write_text("flavors: {}\n")
    register_model(uri, log_model(tracker, output / "other", name="x", tags={}), name="videos", alias="other")
    return uri


@pytest.fixture(autouse=True)
def environment(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("YT8M_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_alias_is_the_version_that_it_points_to_now(store: str) -> None:
    assert resolve_model("models:/videos@champion") == "models:/videos/1"
    client = MlflowClient(store)
    client.set_registered_model_alias("videos", "moving", "1")
    assert resolve_model("models:/videos@moving") == "models:/videos/1"
    client.set_registered_model_alias("videos", "moving", "2")
    assert resolve_model("models:/videos@moving") == "models:/videos/2"


@pytest.mark.parametrize("place", ["/folder", "bundle.tar", "s3://bucket/models", "models/bundle"])
def test_any_other_place_stays_as_it_is(place: str) -> None:
    assert (resolve_model(place), registered_name(place)) == (place, None)


@pytest.mark.parametrize("uri", ["models:/videos@champion", "models:/videos/1"])
def test_the_bundle_of_a_version_is_copied_and_whole(uri: str, bundle: Path, environment: Path) -> None:
    place = Path(fetch_model(uri))
    assert environment in place.parents
    assert Predictor.from_path(place).version == Predictor.from_path(bundle).version
    assert registered_name(uri) == "videos"


def test_a_version_is_copied_once(environment: Path) -> None:
    places = {fetch_model("models:/videos@champion"), fetch_model("models:/videos/1")}
    assert len(places) == 1
    assert len(list((environment / "mlflow").rglob("MLmodel"))) == 1
    assert not list((environment / "mlflow").rglob(".aside-*"))


def test_a_copy_that_was_removed_is_made_anew(environment: Path) -> None:
    place = fetch_model("models:/videos/1")
    shutil.rmtree(environment)
    assert fetch_model("models:/videos/1") == place and Path(place).is_dir()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/videos@nobody", "alias nobody not found"),
        ("models:/nothing@champion", "nothing"),
        ("models:/videos/99", "version=99"),
    ],
)
def test_what_is_not_there_is_told_in_one_sentence(store: str, uri: str, message: str) -> None:
    with pytest.raises(TrackingError) as told:
        fetch_model(uri)
    text = str(told.value)
    assert text.startswith(f"tracking.uri: {store}: ") and message in text and "\n" not in text


@pytest.mark.parametrize(
    "uri", ["models:/", "models:/videos", "models:/videos/latest", "models:/a/b/1", "models:/m@a@b"]
)
def test_another_form_is_refused_with_the_two_that_there_are(uri: str) -> None:
    with pytest.raises(ConfigError, match="expected models:/NAME@ALIAS or models:/NAME/VERSION, found 'models:/"):
        resolve_model(uri)


def test_a_model_of_another_program_is_refused() -> None:
    with pytest.raises(ValueError, match=r"models:/videos/2: expected a model of yt8m register"):
        fetch_model("models:/videos/2")


def test_a_store_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError) as told:
        resolve_model("models:/videos@champion")
    assert told.value.is_temporary

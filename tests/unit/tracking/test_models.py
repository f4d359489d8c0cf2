from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from yt8m_ray.errors import ConfigError
from yt8m_ray.tracking.models import check_names, find_model, log_model, register_folder, register_model
from yt8m_ray.tracking.runs import Tracker, TrackingError, default_uri


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    output = tmp_path_factory.mktemp("runs")
    return Tracker.start(
        default_uri(output), experiment="test", run_name="one", params={}, artifact_path=output / "mlartifacts"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "MLmodel").write_text("flavors: {}\n")
    return path


def test_an_alias_moves_to_the_newest_version_of_a_folder(tracker: Tracker, folder: Path) -> None:
    versions = []
    for text in ("first", "second"):
        (folder / "weights").write_text(text)
        tags = {"validation/gap": text}
        versions.append(register_folder(tracker.uri, tracker.run_id, folder, name="videos", alias="best", tags=tags))

    client = MlflowClient(tracker.uri)
    found = client.get_model_version_by_alias("videos", "best")
    assert (versions, str(found.version)) == (["1", "2"], "2")
    assert (found.run_id, found.tags) == (tracker.run_id, {"validation/gap": "second"})
    assert client.get_model_version("videos", "1").tags == {"validation/gap": "first"}
    where = client.get_model_version_download_uri("videos", "2").removeprefix("file://")
    assert (Path(where) / "weights").read_text() == "second"


def test_a_model_belongs_to_its_run_and_is_whole(tracker: Tracker, folder: Path) -> None:
    model_id = log_model(tracker, folder, name="bundle", tags={"color": "red"})

    client = MlflowClient(tracker.uri)
    model = client.get_logged_model(model_id)
    assert (model.name, model.source_run_id, str(model.status)) == ("bundle", tracker.run_id, "READY")
    assert Path(model.artifact_location.removeprefix("file://"), "MLmodel").read_text() == "flavors: {}\n"
    assert model_id in [output.model_id for output in client.get_run(tracker.run_id).outputs.model_outputs]


def test_a_model_is_found_by_all_of_its_tags_the_newest_first(tracker: Tracker, folder: Path) -> None:
    log_model(tracker, folder, name="bundle", tags={"size": "9", "shape": "round"})
    newest = log_model(tracker, folder, name="bundle", tags={"size": "9", "shape": "round"})

    assert find_model(tracker.uri, experiment="test", tags={"size": "9", "shape": "round"}) == newest
    assert find_model(tracker.uri, experiment="test", tags={"size": "9", "shape": "flat"}) is None
    assert find_model(tracker.uri, experiment="another", tags={"size": "9"}) is None


def test_a_model_that_did_not_arrive_whole_is_not_found(tracker: Tracker) -> None:
    client = MlflowClient(tracker.uri)
    experiment_id = client.get_run(tracker.run_id).info.experiment_id
    client.create_logged_model(experiment_id, "bundle", source_run_id=tracker.run_id, tags={"size": "half"})

    assert find_model(tracker.uri, experiment="test", tags={"size": "half"}) is None


def test_a_model_becomes_a_version_once_and_the_alias_goes_where_it_is_sent(tracker: Tracker, folder: Path) -> None:
    first, second = (log_model(tracker, folder, name="bundle", tags={}) for _ in range(2))

    versions = [
        register_model(tracker.uri, model_id, name="served", alias="champion") for model_id in (first, second, first)
    ]

    found = MlflowClient(tracker.uri).get_model_version_by_alias("served", "champion")
    assert versions == ["1", "2", "1"]
    assert (str(found.version), found.run_id) == ("1", tracker.run_id)


@pytest.mark.parametrize(
    ("name", "alias", "message"),
    [
        ("videos", "latest", "'latest' alias name .* is reserved"),
        ("videos", "Latest", "reserved"),
        ("videos", "v1", "Version alias name 'v1' is reserved"),
        ("videos", "a b", "Invalid alias name: 'a b'"),
        ("videos", "", "alias name cannot be empty"),
        ("videos", "x" * 300, "exceeds the maximum length"),
        ("", "champion", "Missing value for required parameter 'name'"),
        ("a/b", "champion", "cannot contain '/' or ':'"),
        ("..", "champion", "Names may be treated as files"),
        ("bob's videos", "champion", r"expected a name without @ ' \? #"),
        ("a?b", "champion", r"expected a name without @ ' \? #"),
        ("a\nb", "champion", "what cannot be seen"),
        (" a", "champion", "what cannot be seen"),
        ("x" * 257, "champion", "expected at most 256 characters"),
        ("a@b", "champion", r"expected a name without @ ' \? #"),
    ],
)
def test_a_name_or_an_alias_that_mlflow_does_not_take_is_refused(name: str, alias: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_names(name, alias)


@pytest.mark.parametrize("alias", ["champion", "best-1", "v1b", "latest_2"])
def test_names_that_mlflow_takes_are_taken(tracker: Tracker, folder: Path, alias: str) -> None:
    check_names("YouTube-8M videos (2018)", alias)

    register_folder(tracker.uri, tracker.run_id, folder, name="YouTube-8M videos (2018)", alias=alias)


def test_a_model_that_is_not_there_is_told(tracker: Tracker) -> None:
    with pytest.raises(TrackingError, match="not found"):
        register_model(tracker.uri, "m-" + "0" * 32, name="served", alias="champion")

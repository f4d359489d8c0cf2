"""A bundle as an MLflow model: loaded by MLflow it answers as everywhere else, and nothing in it is a pickle."""

from __future__ import annotations

import ast
import base64
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from fastapi.testclient import TestClient
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from packaging.requirements import Requirement

from serve.http.api import build_api
from tests.support.local_service import LocalService
from tests.support.tiny import write_bundle_of
from yt8m_ray.data.format.example import encode_sequence_example
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.shard_reader import read_rows
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.mlflow_model.pyfunc import input_example, requirements, save_pyfunc_model
from yt8m_ray.inference.mlflow_model.registration import register_bundle, store_beside
from yt8m_ray.inference.predictions.writer import SubmissionWriter
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.tracking.runs import default_uri

Write = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[4]
RGB, AUDIO = (np.random.default_rng(6).integers(0, 256, (7, 5, size), np.uint8) for size in (8, 4))


def text(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


@pytest.fixture
def table() -> pd.DataFrame:
    """Returns seven videos of one to five frames."""
    lengths = [1 + index % 5 for index in range(7)]
    return pd.DataFrame(
        {
            "video_id": [f"v{index:03d}" for index in range(7)],
            "rgb": [text(RGB[index, :length]) for index, length in enumerate(lengths)],
            "audio": [text(AUDIO[index, :length]) for index, length in enumerate(lengths)],
        }
    )


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Returns (a bundle, the store where it is version 1 and champion of the model `videos`)."""
    folder = tmp_path_factory.mktemp("registered")
    bundle, uri = write_bundle_of(folder / "bundle"), default_uri(folder)
    assert register_bundle(bundle, uri, name="videos", alias="champion", experiment="test") == "1"
    return bundle, uri


def load(uri: str, model: str = "models:/videos@champion") -> Any:
    # mlflow.set_tracking_uri holds for the whole process, and so for the tests of other files.
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", uri)
        return mlflow.pyfunc.load_model(model)


def test_predictions_file_mlflow_and_http_give_the_same_top_20(
    registered: tuple[Path, str], table: pd.DataFrame, tmp_path: Path
) -> None:
    bundle, uri = registered
    frames = [np.frombuffer(base64.b64decode(value), np.uint8) for name in ("rgb", "audio") for value in table[name]]
    payloads = [
        encode_sequence_example({"id": [video_id.encode()]}, {"rgb": rgb.reshape(-1, 8), "audio": audio.reshape(-1, 4)})
        for video_id, rgb, audio in zip(table["video_id"], frames[:7], frames[7:], strict=True)
    ]
    write_records(str(tmp_path / "test.tfrecord"), payloads)

    by_mlflow = load(uri).predict(table)
    by_file = predicted_file(bundle, tmp_path / "test.tfrecord", tmp_path / "predictions.parquet")
    by_http = answered_over_http(bundle, table)

    for answers in (by_file, by_http):
        assert answers["video_id"].tolist() == by_mlflow["video_id"].tolist()
        assert answers["class_ids"].map(list).tolist() == by_mlflow["class_ids"].tolist()
        assert np.array(answers["scores"].map(list).tolist()) == pytest.approx(
            np.array(by_mlflow["scores"].tolist()), abs=1e-6
        )
    assert by_mlflow["names"].tolist() == by_http["names"].tolist()
    assert {len(ids) for ids in by_mlflow["class_ids"]} == {20}


def predicted_file(bundle: Path, shard: Path, output: Path) -> pd.DataFrame:
    """Predicts a shard as the workers of `jobs.predict` do, block by block, and reads the file."""
    predictor = Predictor.from_path(bundle)
    videos = PackedVideos.from_rows([row for _, row in read_rows(str(shard), predictor.spec)], predictor.spec)
    with SubmissionWriter(str(output)) as writer:
        writer.write(videos.video_ids.tolist(), predictor.predict(videos, 20))
    return pd.read_parquet(output)


def answered_over_http(bundle: Path, table: pd.DataFrame) -> pd.DataFrame:
    response = TestClient(build_api(LocalService(Predictor.from_path(bundle)))).post(
        "/v1/predict", json={"videos": table.to_dict(orient="records")}
    )
    assert response.status_code == 200, response.text
    return pd.DataFrame(
        {
            "video_id": prediction["video_id"],
            "class_ids": [label["class_id"] for label in prediction["labels"]],
            "names": [label["name"] for label in prediction["labels"]],
            "scores": [label["score"] for label in prediction["labels"]],
        }
        for prediction in response.json()["predictions"]
    )


def test_no_file_of_the_model_is_a_pickle(write_tiny_bundle: Write, tmp_path: Path) -> None:
    bundle = write_tiny_bundle()
    save_pyfunc_model(bundle, tmp_path / "model")

    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert kinds <= {"", ".py", ".yaml", ".txt", ".json", ".csv", ".npy", ".typed", ".safetensors"}
    for path in files:
        assert not path.read_bytes().startswith((b"\x80\x04", b"\x80\x05", b"\x80\x02", b"PK")), path
    (array,) = [path for path in files if path.suffix == ".npy"]
    np.load(array, allow_pickle=False)
    flavor = yaml.safe_load((tmp_path / "model" / "MLmodel").read_text())["flavors"]["python_function"]
    assert flavor["model_code_path"] == "pyfunc_model.py"
    assert "python_model" not in flavor
    assert not list((tmp_path / "model").rglob("__pycache__"))


def test_the_artifact_is_the_bundle_byte_for_byte(write_tiny_bundle: Write, tmp_path: Path) -> None:
    bundle = write_tiny_bundle()
    save_pyfunc_model(bundle, tmp_path / "model")

    for path in bundle.rglob("*"):
        if path.is_file():
            copy = tmp_path / "model" / "artifacts" / "bundle" / path.relative_to(bundle)
            assert copy.read_bytes() == path.read_bytes()


def test_the_package_goes_along(write_tiny_bundle: Write, tmp_path: Path) -> None:
    save_pyfunc_model(write_tiny_bundle(), tmp_path / "model")

    for path in (ROOT / "yt8m_ray").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            copy = tmp_path / "model" / "code" / path.relative_to(ROOT)
            assert copy.read_bytes() == path.read_bytes()


def test_params_choose_how_many_classes_and_ids_are_optional(registered: tuple[Path, str], table: pd.DataFrame) -> None:
    model = load(registered[1])

    answers = model.predict(table.drop(columns="video_id"), params={"top_k": 3})

    assert answers["video_id"].tolist() == [""] * 7
    assert {len(ids) for ids in answers["class_ids"]} == {3}
    assert {len(ids) for ids in model.predict(table, params={"top_k": 99})["class_ids"]} == {30}


def test_the_example_fits_the_signature(registered: tuple[Path, str]) -> None:
    model = load(registered[1])
    example, params = input_example(Predictor.from_path(registered[0]).spec)

    assert model.input_example is not None
    assert len(model.predict(example, params=params)["class_ids"][0]) == params["top_k"] == 5
    assert [column.name for column in model.metadata.signature.inputs] == ["video_id", "rgb", "audio"]
    assert [column.name for column in model.metadata.signature.outputs] == ["video_id", "class_ids", "names", "scores"]


def test_a_video_level_model_takes_means_or_frames(write_tiny_bundle: Write, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(data={"features": {"mean_rgb": 8, "mean_audio": 4}})
    save_pyfunc_model(bundle, tmp_path / "model")
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    means = [((RGB[0], 8), "rgb"), ((AUDIO[0], 4), "audio")]
    by_means = {
        f"mean_{name}": [(values * (4 / 255) + 4 / 512 - 2).mean(axis=0).tolist()] for (values, _), name in means
    }
    by_frames = {"rgb": [text(RGB[0])], "audio": [text(AUDIO[0])]}

    first, second = (model.predict(pd.DataFrame(columns)) for columns in (by_means, by_frames))

    assert first["class_ids"][0] == second["class_ids"][0]
    assert first["scores"][0] == pytest.approx(second["scores"][0], abs=1e-5)
    whole = model.predict(pd.DataFrame({"mean_rgb": [[0] * 7 + [1]], "mean_audio": [[0, 0, 0, 1]]}))
    assert len(whole["class_ids"][0]) == 20


def test_a_row_or_a_number_that_does_not_fit_is_named(registered: tuple[Path, str], table: pd.DataFrame) -> None:
    model = load(registered[1])

    with pytest.raises(MlflowException, match="top_k: expected at least 1, found 0"):
        model.predict(table, params={"top_k": 0})
    table.loc[3, "rgb"] = "AAAA"
    with pytest.raises(MlflowException, match=r"row 3\.rgb: expected a multiple of 8 bytes \(8 a frame\), found 3"):
        model.predict(table)


def test_a_row_whose_scores_are_nan_is_named(write_tiny_bundle: Write, tmp_path: Path) -> None:
    data = {"features": {"mean_rgb": 8}, "normalize": "none"}
    save_pyfunc_model(write_tiny_bundle(data=data, model={"name": "moe"}), tmp_path / "model")
    rows = [{"mean_rgb": [value] * 8} for value in (1.0, 3e38, 1.0)]

    with pytest.raises(MlflowException, match="row 1: the model's scores of it are NaN; its features are too large"):
        mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(pd.DataFrame(rows))


@pytest.mark.soak  # a new process that imports torch and MLflow
def test_the_model_loads_where_the_package_is_not_installed(
    write_tiny_bundle: Write, tmp_path: Path, table: pd.DataFrame
) -> None:
    save_pyfunc_model(write_tiny_bundle(), tmp_path / "model")
    table.to_json(tmp_path / "table.json", orient="records")
    code = (
        "import json, mlflow, pandas as pd; model = mlflow.pyfunc.load_model('model'); import yt8m_ray; "
        "print(json.dumps([yt8m_ray.__file__, len(model.predict(pd.read_json('table.json', dtype=False)))]))"
    )
    environment = {**os.environ, "PYTHONPATH": "", "MLFLOW_TRACKING_URI": default_uri(tmp_path)}

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    place, num_answers = json.loads(done.stdout.splitlines()[-1])
    assert Path(place).is_relative_to(tmp_path / "model" / "code")
    assert num_answers == 7


def test_a_bundle_is_logged_once_and_an_alias_moves_without_a_copy(
    registered: tuple[Path, str], write_tiny_bundle: Write
) -> None:
    first, uri = registered
    second = write_tiny_bundle("second", data={"normalize": "none"})

    versions = [
        register_bundle(bundle, uri, name="videos", alias=alias, experiment="test")
        for bundle, alias in ((second, "challenger"), (second, "champion"), (first, "champion"))
    ]

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("test")
    assert versions == ["2", "2", "1"]
    assert len(client.search_runs([experiment.experiment_id])) == 2
    aliases = client.get_registered_model("videos").aliases
    assert {alias: str(version) for alias, version in aliases.items()} == {"champion": "1", "challenger": "2"}


def test_the_run_of_a_bundle_has_its_quality_and_its_origin(registered: tuple[Path, str]) -> None:
    bundle, uri = registered
    client = MlflowClient(uri)
    version = client.get_model_version_by_alias("videos", "champion")
    run = client.get_run(version.run_id)

    assert version.tags == {"yt8m_ray.bundle": Predictor.from_path(bundle).version}
    assert run.info.status == "FINISHED" and run.data.params["transform.name"] == "int8"
    assert set(run.data.metrics) == {"validation/gap", "validation/gap_float32"}


def test_the_store_is_the_one_beside_the_bundle(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^uri: .*mlflow\.db does not exist; name a server"):
        store_beside(tmp_path / "bundle")

    (tmp_path / "mlflow.db").touch()
    assert store_beside(tmp_path / "bundle") == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_a_checkpoint_is_not_registered(save_tiny_checkpoint: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a bundle, found a checkpoint"):
        register_bundle(save_tiny_checkpoint(), default_uri(tmp_path), name="x", alias="y", experiment="z")


def test_everything_that_the_model_imports_is_among_its_requirements() -> None:
    required = {Requirement(line).name for line in requirements()}
    names = importlib.metadata.packages_distributions()
    # TensorFlow reads checkpoints of another system, where that is asked for; llvmlite comes with Numba, SQLAlchemy and
    # requests with MLflow.
    optional = {"tensorflow", "llvmlite", "sqlalchemy", "requests"}

    imported = imported_by(ROOT / "yt8m_ray" / "inference" / "mlflow_model" / "pyfunc_model.py") - set(
        sys.stdlib_module_names
    )
    owners = [{owner.lower() for owner in names[name]} for name in imported - {"yt8m_ray", *optional}]

    assert [owner for owner in owners if not owner & required] == []
    assert all("+" not in line for line in requirements())


def imported_by(start: Path) -> set[str]:
    """Returns the top-level modules that a file and all of this repository's files that it leads to import."""
    found: set[str] = set()
    # The public names of the package are imported when they are used.
    waiting, seen = [start], {start, ROOT / "yt8m_ray" / "__init__.py"}
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text())):
            targets = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
            for target in targets:
                found.add(target.split(".")[0])
                parts = target.split(".")
                for end in range(1, len(parts) + 1):
                    for file in (
                        ROOT.joinpath(*parts[:end]).with_suffix(".py"),
                        ROOT.joinpath(*parts[:end], "__init__.py"),
                    ):
                        if parts[0] == "yt8m_ray" and file.is_file() and file not in seen:
                            seen.add(file)
                            waiting.append(file)
    return found

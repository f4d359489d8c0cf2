"""The service as `serve run serve/config.yaml` deploys it: a real Ray Serve with its HTTP proxy."""

from __future__ import annotations

import base64
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import yaml

from serve.settings import Limits, ServeArgs
from yt8m_ray.artifacts.checkpoint import save_checkpoint
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.example import encode_sequence_example
from yt8m_ray.data.format.features import VideoRow
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.models import build_model

CONFIG = Path(__file__).resolve().parents[2] / "serve" / "config.yaml"
FEATURES = {"rgb": 1024, "audio": 128}
NUM_CLASSES = 3862
BINARY = {"content-type": "application/octet-stream"}


def clip(seed: int) -> VideoRow:
    generator = np.random.default_rng(seed)
    frames = generator.integers(0, 256, (int(generator.integers(1, 40)), 1152), np.uint8)
    return VideoRow(f"v{seed}", frames, np.empty(0, np.int32))


def record(row: VideoRow) -> bytes:
    sequences = {"rgb": row.frames[:, :1024], "audio": row.frames[:, 1024:]}
    return encode_sequence_example({"id": [row.video_id.encode()]}, sequences)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("served") / "first", seed=0)


def save(folder: Path, *, seed: int) -> Path:
    config = TrainConfig.model_validate(
        {"run": {"name": "served"}, "data": {"features": FEATURES}, "model": {"name": "logistic"}}
    )
    torch.manual_seed(seed)
    model = build_model(config.model, feature_sizes=list(FEATURES.values()), num_classes=NUM_CLASSES)
    folder.mkdir()
    save_checkpoint(folder, config=config, model=model, state={}, facts={})
    return folder


@pytest.fixture(scope="module")
def service(ray_cluster: None, checkpoint: Path) -> Iterator[httpx.Client]:
    """Deploys serve/config.yaml on a free port and yields a client of it."""
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    tree = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        tree["http_options"]["port"] = free.getsockname()[1]
    tokens = checkpoint.parent / "operators"
    tokens.write_text("operator\n", encoding="utf-8")
    tokens.chmod(0o600)
    tree["applications"][0]["args"] |= {"model": str(checkpoint), "admin_tokens_file": str(tokens)}
    deployment = tree["applications"][0]["deployments"][0]
    deployment["ray_actor_options"]["num_cpus"] = 0.5
    places = {"first": checkpoint, "other": save(checkpoint.parent / "other", seed=1), "broken": checkpoint.parent}
    deployment["user_config"]["models"] = {name: str(place) for name, place in places.items()}
    config = ServeDeploySchema.model_validate(tree)
    serve.start(http_options=config.http_options.model_dump(), proxy_location=config.proxy_location)
    try:
        _get_global_client().deploy_apps(config, _blocking=True)  # what `serve run` calls
        with httpx.Client(base_url=f"http://127.0.0.1:{tree['http_options']['port']}", timeout=60) as client:
            yield client
    finally:
        serve.shutdown()


def test_the_config_binds_loopback_and_says_what_the_types_allow() -> None:
    tree = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    (application,) = tree["applications"]
    deployment, manager = application["deployments"]
    assert (deployment["name"], manager["name"]) == ("PredictionService", "ReleaseManager")
    assert tree["http_options"]["host"] == "127.0.0.1"
    assert ServeArgs.model_validate(application["args"]) == ServeArgs()
    assert Limits.model_validate(deployment["user_config"]) == Limits()


def test_json_and_binary_get_the_predictors_own_scores(service: httpx.Client, checkpoint: Path) -> None:
    row = clip(1)
    rgb, audio = (base64.b64encode(part.tobytes()).decode() for part in np.split(row.frames, [1024], axis=1))
    body = {"videos": [{"video_id": "v1", "rgb": rgb, "audio": audio}], "top_k": 7}
    by_json = service.post("/v1/predict", json=body)
    by_record = service.post("/v1/predict?top_k=7", content=record(row), headers=BINARY)
    assert by_json.status_code == 200 and by_json.json()["predictions"] == by_record.json()["predictions"]
    best = Predictor.from_path(checkpoint).predict([row], 7)
    (prediction,) = by_json.json()["predictions"]
    assert [label["class_id"] for label in prediction["labels"]] == best.class_ids[0].tolist()
    assert [label["score"] for label in prediction["labels"]] == pytest.approx(best.scores[0].tolist(), abs=1e-5)


def test_requests_that_share_a_batch_get_their_own_answers(service: httpx.Client, checkpoint: Path) -> None:
    predictor = Predictor.from_path(checkpoint)
    rows = [clip(seed) for seed in range(2, 26)]
    answers: dict[str, dict[str, Any]] = {}

    def ask(row: VideoRow, top_k: int) -> None:
        response = service.post(f"/v1/predict?top_k={top_k}", content=record(row), headers=BINARY)
        answers[row.video_id] = response.json()["predictions"][0]

    threads = [threading.Thread(target=ask, args=(row, 1 + index)) for index, row in enumerate(rows)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, row in enumerate(rows):
        best = predictor.predict([row], 1 + index)
        labels = answers[row.video_id]["labels"]
        assert [label["class_id"] for label in labels] == best.class_ids[0].tolist()
        assert [label["score"] for label in labels] == pytest.approx(best.scores[0].tolist(), abs=1e-5)


def test_health_and_documents_are_served(service: httpx.Client, checkpoint: Path) -> None:
    version = Predictor.from_path(checkpoint).version
    assert service.get("/healthz").json() == {"status": "ok", "model_version": version}
    assert "/v1/predict" in service.get("/openapi.json").json()["paths"]
    assert "swagger-ui" in service.get("/docs").text
    assert service.get("/docs/assets/swagger-ui-bundle.js").status_code == 200


def test_errors_have_one_shape_and_one_id_through_the_proxy(service: httpx.Client) -> None:
    for path, content, status in (
        ("/v1/predict", b"\xff", 400),
        ("/v1/predict?top_k=0", record(clip(1)), 422),
        ("/v1/predict", bytes(Limits().max_body_bytes + 1), 413),
        ("/nothing", b"", 404),
    ):
        response = service.post(path, content=content, headers={**BINARY, "x-request-id": "mine-7"})
        assert response.status_code == status
        assert response.headers.get_list("x-request-id") == ["mine-7"]
        assert response.json()["error"]["request_id"] == "mine-7"


def test_the_real_frame_level_shards_are_answered(service: httpx.Client, yt8m_data: Path) -> None:
    from yt8m_ray.data.format.tfrecord import read_payloads
    from yt8m_ray.data.storage.filesystem import open_stream

    shards = [yt8m_data / "yt8m/v2_frame/one_real_video.tfrecord", *yt8m_data.glob("third_party_shards/*.tfrecord")]
    assert len(shards) == 3
    for shard in shards:
        with open_stream(str(shard)) as stream:
            for _, _, payload in read_payloads(stream, path=os.fspath(shard)):
                response = service.post("/v1/predict", content=bytes(payload), headers=BINARY)
                assert response.status_code == 200, response.text
                assert len(response.json()["predictions"][0]["labels"]) == 20


def test_models_change_while_requests_are_answered_and_a_broken_one_is_refused(
    service: httpx.Client, checkpoint: Path
) -> None:
    admin = {"authorization": "Bearer operator"}
    first = service.get("/healthz").json()["model_version"]
    versions, statuses, done = set(), set(), threading.Event()

    def ask_on() -> None:
        while not done.is_set():
            response = service.post("/v1/predict", content=record(clip(1)), headers=BINARY)
            statuses.add(response.status_code)
            versions.add(response.json().get("model_version"))

    thread = threading.Thread(target=ask_on)
    thread.start()
    try:
        refused = service.post("/v1/admin/promote", json={"model": "broken"}, headers=admin)
        promoted = service.post("/v1/admin/promote", json={"model": "other"}, headers=admin)
        second = service.get("/healthz").json()["model_version"]
        canary = service.post("/v1/admin/canary", json={"model": "first", "share": 0.5}, headers=admin)
        answered = {
            service.post("/v1/predict", content=record(clip(1)), headers=BINARY).json()["model_version"]
            for _ in range(30)
        }
        back = [service.post("/v1/admin/rollback", headers=admin).status_code for _ in range(2)]
    finally:
        done.set()
        thread.join()

    assert (refused.status_code, promoted.status_code, canary.status_code, back) == (409, 200, 200, [200, 200])
    message = refused.json()["error"]["message"]
    assert message.startswith("refused, nothing was changed: broken: ") and "Traceback" not in message
    assert answered == {first, second} and first != second
    assert service.get("/healthz").json()["model_version"] == first
    assert statuses == {200} and versions == {first, second}
    assert service.post("/v1/admin/promote", json={"model": "other"}).status_code == 401

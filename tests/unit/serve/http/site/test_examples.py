"""GET /v1/examples: of a shard, of a bundle, or none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

import serve.http.site.examples
from serve.http.api import build_api
from serve.settings import ServeArgs
from tests.support.local_service import LocalService
from yt8m_ray.data.format.example import decode_record, encode_example, encode_sequence_example
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.inference.predictor import Predictor

BINARY = {"content-type": "application/octet-stream"}


def client_of(model: Path, examples: Path | None = None) -> TestClient:
    args = ServeArgs(examples=None if examples is None else str(examples))
    return TestClient(build_api(LocalService(Predictor.from_path(model), args=args)), raise_server_exceptions=False)


def clip(name: str, num_frames: int) -> bytes:
    frames = {key: np.full((num_frames, size), 7, np.uint8) for key, size in (("rgb", 8), ("audio", 4))}
    return encode_sequence_example({"id": [name.encode()]}, frames)


def test_an_example_names_the_labels_of_its_record(save_tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    means = {"mean_rgb": np.zeros(8, np.float32), "mean_audio": np.zeros(4, np.float32)}
    write_records(str(tmp_path / "shard"), [encode_example({"id": [b"v"], "labels": np.array([3, 1]), **means})])

    listed = client_of(save_tiny_checkpoint(), tmp_path / "shard").get("/v1/examples").json()

    assert listed["examples"] == [{"id": "1", "title": "v", "num_frames": None, "labels": [3, 1]}]


def test_the_first_twelve_videos_of_a_shard_are_offered(
    save_tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    payloads = [clip(f"v{index}", 1 + index % 6) for index in range(15)]
    write_records(str(tmp_path / "shard"), payloads)
    client = client_of(save_tiny_checkpoint(), tmp_path / "shard")
    listed = client.get("/v1/examples").json()
    assert listed["is_made_up"] is False
    assert listed["examples"] == [
        {"id": str(index + 1), "title": f"v{index}", "num_frames": 1 + index % 6, "labels": []} for index in range(12)
    ]
    response = client.get("/v1/examples/3")
    assert response.headers["content-type"] == "application/octet-stream" and response.content == payloads[2]


def test_records_without_frames_or_ids_are_offered_too(
    save_tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    means = {"mean_rgb": np.zeros(8, np.float32)}
    write_records(str(tmp_path / "shard"), [encode_example({"video_id": [b"old"], **means}), encode_example(means)])
    client = client_of(save_tiny_checkpoint(), tmp_path / "shard")
    entries = client.get("/v1/examples").json()["examples"]
    assert [(entry["title"], entry["num_frames"]) for entry in entries] == [("old", None), ("record 2", None)]


def test_the_shard_is_read_once_and_off_the_event_loop(
    save_tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    loops: list[int] = []
    read, of = serve.http.site.examples._read_examples, serve.http.site.examples.Examples.of

    def watched_read(path: str) -> object:
        threads.append(threading.get_ident())
        return read(path)

    async def watched_of(*arguments: object) -> object:
        loops.append(threading.get_ident())
        return await of(*arguments)

    monkeypatch.setattr(serve.http.site.examples, "_read_examples", watched_read)
    monkeypatch.setattr(serve.http.site.examples.Examples, "of", watched_of)
    write_records(str(tmp_path / "shard"), [clip("v", 2)])
    client = client_of(save_tiny_checkpoint(), tmp_path / "shard")
    for path in ("/v1/examples", "/v1/examples/1", "/v1/examples"):
        assert client.get(path).status_code == 200
    assert len(threads) == 1 and not set(threads) & set(loops)


@pytest.mark.parametrize(
    "features", [{"rgb": 8, "audio": 4}, {"mean_rgb": 8, "mean_audio": 4}], ids=["frames", "means"]
)
def test_a_bundle_offers_what_it_checks_itself_with(
    write_tiny_bundle: Callable[..., Path], features: dict[str, int]
) -> None:
    bundle = write_tiny_bundle(data={"features": features})
    golden = Predictor.from_path(bundle).golden
    assert golden is not None
    client = client_of(bundle)
    listed = client.get("/v1/examples").json()
    assert listed["is_made_up"] is True and len(listed["examples"]) == len(golden.videos)
    for row, entry in enumerate(listed["examples"]):
        record = client.get(f"/v1/examples/{entry['id']}").content
        fields = decode_record(record)
        assert {*fields.context, *fields.sequences} == {"id", *features}
        answer = client.post("/v1/predict?top_k=20", content=record, headers=BINARY).json()["predictions"][0]
        assert answer["video_id"] == entry["title"]
        assert [label["class_id"] for label in answer["labels"]] == golden.best.class_ids[row].tolist()


def test_a_checkpoint_alone_has_no_examples(save_tiny_checkpoint: Callable[..., Path]) -> None:
    client = client_of(save_tiny_checkpoint())
    assert client.get("/v1/examples").json() == {"is_made_up": True, "examples": []}
    response = client.get("/v1/examples/1")
    assert response.status_code == 404 and "valid: none" in response.json()["error"]["message"]


@pytest.mark.parametrize("name", ["0", "13", "x", "..%2F..%2Fetc%2Fpasswd", "-1"])
def test_an_example_that_is_not_listed_is_not_there(write_tiny_bundle: Callable[..., Path], name: str) -> None:
    assert client_of(write_tiny_bundle()).get(f"/v1/examples/{name}").status_code == 404


def test_a_shard_that_cannot_be_read_shows_nothing_of_where_it_is(
    save_tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    response = client_of(save_tiny_checkpoint(), tmp_path / "gone").get("/v1/examples")
    assert response.status_code == 500 and str(tmp_path) not in response.text

"""The HTTP application without Ray: every answer and every refusal, in process."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from serve.http.api import build_api
from serve.model.batching import Batcher
from serve.model.label_json import LabelTexts
from serve.settings import Limits
from tests.support.local_service import LocalService
from tests.support.tiny import save_checkpoint_of
from yt8m_ray.data.format.example import encode_example, encode_sequence_example
from yt8m_ray.data.format.features import VideoRow
from yt8m_ray.inference.predictor import Predictor

GENERATOR = np.random.default_rng(3)
RGB = GENERATOR.integers(0, 256, (4, 8), np.uint8)
AUDIO = GENERATOR.integers(0, 256, (4, 4), np.uint8)
BINARY = {"content-type": "application/octet-stream"}


def client_of(checkpoint: Path) -> TestClient:
    limits = Limits(max_body_bytes=20_000, max_videos=3, max_labels=60)
    service = LocalService(Predictor.from_path(checkpoint), limits)
    return TestClient(build_api(service), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint_of(tmp_path_factory.mktemp("frame_level") / "checkpoint")


@pytest.fixture(scope="module")
def frame_level(checkpoint: Path) -> Iterator[TestClient]:
    with client_of(checkpoint) as client:
        yield client


@pytest.fixture(scope="module")
def video_level(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("video_level") / "checkpoint"
    with client_of(save_checkpoint_of(folder, data={"features": {"mean_rgb": 8, "mean_audio": 4}})) as client:
        yield client


def encoded(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def video(**changes: Any) -> dict[str, Any]:
    """Returns a good video; a change to None leaves the key out."""
    given = {"video_id": "abcd", "rgb": encoded(RGB), "audio": encoded(AUDIO), **changes}
    return {key: value for key, value in given.items() if value is not None}


def post(client: TestClient, *videos: dict[str, Any], **fields: Any) -> httpx.Response:
    return client.post("/v1/predict", json={"videos": list(videos), **fields})


def refusal(response: httpx.Response, status: int) -> str:
    """Returns the message of an error after checking the shape of its body."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error"} and body["error"].keys() == {"code", "message", "request_id"}
    assert "Traceback" not in response.text and "/yt8m_ray/" not in response.text
    message: str = body["error"]["message"]
    return message


def test_the_answer_has_the_documented_shape(frame_level: TestClient) -> None:
    response = post(frame_level, video(), top_k=3)
    assert response.status_code == 200
    body = response.json()
    assert body.keys() == {"model_name", "model_version", "request_id", "predictions"}
    assert body["request_id"] == response.headers["x-request-id"]
    (prediction,) = body["predictions"]
    assert prediction.keys() == {"video_id", "labels"} and prediction["video_id"] == "abcd"
    assert [label.keys() for label in prediction["labels"]] == [
        {"class_id", "knowledge_graph_id", "name", "vertical", "score"}
    ] * 3
    scores = [label["score"] for label in prediction["labels"]]
    assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)


def test_scores_and_names_are_those_of_the_predictor(frame_level: TestClient, checkpoint: Path) -> None:
    predictor = Predictor.from_path(checkpoint)
    row = VideoRow("abcd", np.concatenate([RGB, AUDIO], axis=1), np.empty(0, np.int32))
    best = predictor.predict([row], 5)
    labels = post(frame_level, video(), top_k=5).json()["predictions"][0]["labels"]
    assert [label["class_id"] for label in labels] == best.class_ids[0].tolist()
    assert [label["score"] for label in labels] == pytest.approx(best.scores[0].tolist(), abs=1e-6)
    assert [label["name"] for label in labels] == [predictor.vocabulary.name(i) for i in best.class_ids[0].tolist()]


def test_base64_flat_lists_nested_lists_and_protobuf_get_the_same_answer(frame_level: TestClient) -> None:
    answers = [
        post(frame_level, video(rgb=rgb, audio=audio), top_k=30).json()["predictions"][0]["labels"]
        for rgb, audio in (
            (encoded(RGB), encoded(AUDIO)),
            (RGB.reshape(-1).tolist(), AUDIO.reshape(-1).tolist()),
            (RGB.tolist(), AUDIO.tolist()),
            (encoded(RGB), AUDIO.tolist()),
        )
    ]
    record = encode_sequence_example({"id": [b"abcd"], "labels": np.array([4000])}, {"rgb": RGB, "audio": AUDIO})
    response = frame_level.post("/v1/predict?top_k=30", content=record, headers=BINARY)
    assert response.json()["predictions"][0]["video_id"] == "abcd"
    answers.append(response.json()["predictions"][0]["labels"])
    assert all(answer == answers[0] for answer in answers)


def test_a_video_level_model_takes_means_and_frames(video_level: TestClient) -> None:
    means = (np.concatenate([RGB, AUDIO], axis=1) * (4 / 255) + 4 / 512 - 2).mean(axis=0)
    by_frames = post(video_level, video()).json()["predictions"][0]["labels"]
    by_means = post(video_level, {"mean_rgb": means[:8].tolist(), "mean_audio": means[8:].tolist()}).json()
    found, expected = by_means["predictions"][0]["labels"], by_frames
    assert [label["class_id"] for label in found] == [label["class_id"] for label in expected]
    assert [label["score"] for label in found] == pytest.approx([label["score"] for label in expected], abs=1e-5)
    features = {
        name: means[part].astype(np.float32) for name, part in (("mean_rgb", np.s_[:8]), ("mean_audio", np.s_[8:]))
    }
    record = encode_example({"id": [b"x"], **features})
    binary = video_level.post("/v1/predict", content=record, headers=BINARY).json()["predictions"][0]
    assert binary["video_id"] == "x"
    assert [label["class_id"] for label in binary["labels"]] == [label["class_id"] for label in expected]


def test_several_videos_are_answered_in_order_and_ids_are_optional(frame_level: TestClient) -> None:
    response = post(frame_level, video(video_id="a"), video(video_id=None), video(video_id="ü,\n"))
    assert [prediction["video_id"] for prediction in response.json()["predictions"]] == ["a", "", "ü,\n"]


def test_a_record_without_an_id_is_answered(frame_level: TestClient) -> None:
    record = encode_sequence_example({}, {"rgb": RGB, "audio": AUDIO})
    response = frame_level.post("/v1/predict", content=record, headers=BINARY)
    assert response.json()["predictions"][0]["video_id"] == ""


def test_twenty_classes_are_the_default(frame_level: TestClient) -> None:
    assert len(post(frame_level, video()).json()["predictions"][0]["labels"]) == 20


def test_health_names_the_model(frame_level: TestClient, checkpoint: Path) -> None:
    version = Predictor.from_path(checkpoint).version
    assert frame_level.get("/healthz").json() == {"status": "ok", "model_version": version}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b'{"videos": [}', b"\xff\xfe", b'{"videos": "\\ud800"}'],
    ids=["empty", "cut", "text", "syntax", "not UTF-8", "surrogate"],
)
def test_a_body_that_is_not_json_is_malformed(frame_level: TestClient, body: bytes) -> None:
    response = frame_level.post("/v1/predict", content=body, headers={"content-type": "application/json"})
    assert "not JSON" in refusal(response, 400)


@pytest.mark.parametrize("rgb", ["?", "AAA", "AAAA\nAAAA", "é", "AA=A"])
def test_what_is_not_base64_is_malformed(frame_level: TestClient, rgb: str) -> None:
    assert "videos[0].rgb: not base64" in refusal(post(frame_level, video(rgb=rgb)), 400)


@pytest.mark.parametrize("body", [b"", b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", b"{}", bytes(range(256))])
def test_what_is_not_protobuf_is_malformed(frame_level: TestClient, body: bytes) -> None:
    refusal(frame_level.post("/v1/predict", content=body, headers=BINARY), 400)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rgb": encoded(RGB)[:20]}, r"videos\[0\]\.rgb: .*multiple of 8 bytes"),
        ({"rgb": encoded(RGB[:3])}, "same number of frames, found rgb 3, audio 4"),
        ({"rgb": RGB[:3].tolist()}, "same number of frames, found rgb 3, audio 4"),
        ({"audio": None}, "needs the frames audio; found rgb"),
        ({"rgb": None, "audio": None}, "needs the frames rgb; found none"),
        ({"rgb": "", "audio": ""}, "expected 1 to 6 frames, found 0"),
        ({"rgb": [], "audio": []}, "expected 1 to 6 frames, found 0"),
        ({"rgb": encoded(np.tile(RGB, (2, 1))), "audio": encoded(np.tile(AUDIO, (2, 1)))}, "1 to 6 frames, found 8"),
        ({"rgb": [*range(31), 256]}, r"videos\[0\]\.rgb\[31\]: expected a whole number from 0 to 255, found 256"),
        ({"rgb": [*range(31), -1]}, r"rgb\[31\]: expected a whole number from 0 to 255, found -1"),
        ({"rgb": [*range(31), 1.5]}, r"rgb\[31\]: expected a whole number from 0 to 255, found 1.5"),
        ({"rgb": [*range(31), True]}, r"rgb\[31\]: expected a whole number from 0 to 255, found True"),
        ({"rgb": [*range(31), [1]]}, r"rgb\[31\]: expected a whole number from 0 to 255, found a list of 1"),
        ({"rgb": [[*range(7), 256]]}, r"rgb\[0\]\[7\]: expected a whole number from 0 to 255, found 256"),
        ({"rgb": [[1] * 8, [1] * 7]}, r"videos\[0\]\.rgb\[1\]: expected 8 values a frame, found 7"),
        ({"rgb": [[1] * 8, 3]}, r"videos\[0\]\.rgb\[1\]: expected 8 values a frame, found 3"),
        ({"rgb": 7}, r"videos\[0\]\.rgb: expected a text or a list, found 7"),
        ({"rgb": {"a": 1}}, r"videos\[0\]\.rgb: expected a text or a list, found a mapping of 1"),
        ({"video_id": 7}, r"videos\[0\]\.video_id: .*valid string"),
        ({"mean_rgbs": [1.0]}, r"videos\[0\]\.mean_rgbs: unknown key; valid: video_id, rgb, audio"),
    ],
)
def test_a_video_that_does_not_fit_is_refused_with_the_reason(
    frame_level: TestClient, changes: dict[str, Any], message: str
) -> None:
    assert re.search(message, refusal(post(frame_level, video(**changes)), 422))


@pytest.mark.parametrize(
    ("means", "message"),
    [
        ([1.0] * 7, "expected 8 float32 values, found 7"),
        ([float("nan")] * 8, "videos[0].mean_rgb: value 0 is nan, not a finite number"),
        ([0.0, float("inf")] * 4, "videos[0].mean_rgb: value 1 is inf, not a finite number"),
        ([1e39] * 8, "value 0 of 8 is inf, not a finite number"),
        ([0.0] * 7 + [-1e39], "value 7 of 8 is -inf, not a finite number"),
        (["1"] * 8, "valid number"),
        ("AAAA", "valid array"),
    ],
)
def test_means_that_do_not_fit_are_refused(video_level: TestClient, means: Any, message: str) -> None:
    body = json.dumps({"videos": [{"mean_rgb": means, "mean_audio": [0.0] * 4}]})
    response = video_level.post("/v1/predict", content=body, headers={"content-type": "application/json"})
    assert message in refusal(response, 422)


def test_a_number_beyond_float64_is_refused(video_level: TestClient) -> None:
    body = '{"videos": [{"mean_rgb": [1e999, 0, 0, 0, 0, 0, 0, 0], "mean_audio": [0, 0, 0, 0]}]}'
    response = video_level.post("/v1/predict", content=body, headers={"content-type": "application/json"})
    assert "finite" in refusal(response, 422)


def test_a_video_level_model_names_what_it_needs(video_level: TestClient) -> None:
    message = refusal(post(video_level, {"mean_rgb": [0.0] * 8}), 422)
    assert "needs mean_audio, or the frames audio to average; found mean_rgb" in message


def test_infinite_floats_in_a_record_are_refused(video_level: TestClient) -> None:
    record = encode_example({"mean_rgb": np.full(8, np.inf, np.float32), "mean_audio": np.zeros(4, np.float32)})
    assert "finite" in refusal(video_level.post("/v1/predict", content=record, headers=BINARY), 422)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_k": 0}, "top_k: .*greater than or equal to 1"),
        ({"top_k": 31}, "top_k: expected 1 to 30, found 31"),
        ({"top_k": "5"}, "top_k: .*valid integer"),
        ({"top_k": 2.5}, "top_k: .*valid integer"),
        ({"topk": 5}, "topk: unknown key; valid: videos, top_k"),
    ],
)
def test_a_top_k_that_is_no_number_of_classes_is_refused(
    frame_level: TestClient, fields: dict[str, Any], message: str
) -> None:
    assert re.search(message, refusal(post(frame_level, video(), **fields), 422))


@pytest.mark.parametrize("query", ["top_k=0", "top_k=31", "top_k=x", "top_k=", "top_k=1&top_k=2", "k=1", "top_k=1_0"])
def test_a_query_that_is_no_number_of_classes_is_refused(frame_level: TestClient, query: str) -> None:
    record = encode_sequence_example({}, {"rgb": RGB, "audio": AUDIO})
    refusal(frame_level.post(f"/v1/predict?{query}", content=record, headers=BINARY), 422)


def test_a_query_says_top_k_for_json_too_unless_the_body_does(frame_level: TestClient) -> None:
    def num_labels(**fields: int) -> int:
        response = frame_level.post("/v1/predict?top_k=4", json={"videos": [video()], **fields})
        return len(response.json()["predictions"][0]["labels"])

    assert num_labels() == 4
    assert num_labels(top_k=2) == 2


@pytest.mark.parametrize("body", [{"videos": []}, {}, [], 3, "x", {"videos": None}, {"videos": {}}, {"videos": [[]]}])
def test_json_that_holds_no_videos_is_refused(frame_level: TestClient, body: Any) -> None:
    refusal(frame_level.post("/v1/predict", json=body), 422)


def test_too_many_videos_are_refused(frame_level: TestClient) -> None:
    assert "videos: at most 3 a request, found 4" in refusal(post(frame_level, *[video()] * 4), 422)


def test_a_large_body_is_refused_by_what_it_says(frame_level: TestClient) -> None:
    response = frame_level.post("/v1/predict", content=b"x" * 20_001, headers=BINARY)
    assert "at most 20000 bytes, found 20001" in refusal(response, 413)


def test_a_large_body_that_hides_its_size_is_refused_while_it_is_read(frame_level: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 1000

    assert "found more" in refusal(frame_level.post("/v1/predict", content=chunks(), headers=BINARY), 413)


@pytest.mark.parametrize("content_type", ["text/plain", "nonsense", "application/x-www-form-urlencoded"])
def test_an_unknown_content_type_is_refused(frame_level: TestClient, content_type: str) -> None:
    response = frame_level.post("/v1/predict", content=b"{}", headers={"content-type": content_type})
    assert "expected application/json or application/octet-stream" in refusal(response, 415)


def test_without_a_content_type_a_brace_begins_json_and_all_else_is_a_record(frame_level: TestClient) -> None:
    record = encode_sequence_example({"id": [b"abcd"]}, {"rgb": RGB, "audio": AUDIO})
    answers = []
    for body in (json.dumps({"videos": [video()]}).encode(), record):
        request = frame_level.build_request("POST", "/v1/predict", content=body)
        assert "content-type" not in request.headers
        answers.append(frame_level.send(request).json()["predictions"])
    assert answers[0] == answers[1]


def test_more_labels_than_an_answer_may_have_are_refused(frame_level: TestClient) -> None:
    assert post(frame_level, *[video()] * 3, top_k=20).status_code == 200
    response = post(frame_level, *[video()] * 3, top_k=21)
    assert "top_k: at most 60 labels an answer, found 3 videos * 21" in refusal(response, 422)


def test_a_long_answer_is_written_off_the_event_loop(save_tiny_checkpoint: Callable[..., Path]) -> None:
    threads: set[str] = set()
    loops: set[str] = set()

    class WatchedTexts(LabelTexts):
        def labels(self, *arguments: Any, **options: Any) -> str:
            threads.add(threading.current_thread().name)
            return super().labels(*arguments, **options)

    class Watched(Batcher):
        def ask(self, *arguments: Any) -> Any:
            loops.add(threading.current_thread().name)
            return super().ask(*arguments)

    service = LocalService(Predictor.from_path(save_tiny_checkpoint()), batcher=Watched)
    model = service.host.current
    vars(model)["label_texts"] = WatchedTexts(model.predictor.vocabulary)
    response = post(TestClient(build_api(service)), *[video()] * 60, top_k=20)
    assert response.status_code == 200
    assert threads and not threads & loops


def test_a_content_type_may_have_parameters_and_capitals(frame_level: TestClient) -> None:
    body = json.dumps({"videos": [video()]})
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert frame_level.post("/v1/predict", content=body, headers=headers).status_code == 200


def test_unknown_paths_get_the_same_shape(frame_level: TestClient) -> None:
    assert "nothing here; GET /docs lists" in refusal(frame_level.get("/v3/predict"), 404)


def test_an_error_carries_the_id_of_the_request(frame_level: TestClient) -> None:
    given = frame_level.get("/nothing", headers={"x-request-id": "mine-1"}).json()["error"]["request_id"]
    made = frame_level.get("/nothing").json()["error"]["request_id"]
    assert given == "mine-1"
    assert re.fullmatch(r"[0-9a-f-]{36}", made)


def test_a_failure_of_the_server_shows_nothing_of_its_inside(save_tiny_checkpoint: Callable[..., Path]) -> None:
    service = LocalService(Predictor.from_path(save_tiny_checkpoint()))

    def fail(*_: object) -> None:
        raise RuntimeError("secret detail")

    service.host.current.predictor.model.register_forward_pre_hook(fail)
    response = post(TestClient(build_api(service), raise_server_exceptions=False), video())
    assert "secret" not in refusal(response, 500)


def test_the_openapi_document_describes_all_bodies(frame_level: TestClient) -> None:
    document = frame_level.get("/openapi.json").json()
    operation = document["paths"]["/v1/predict"]["post"]
    assert operation["requestBody"]["content"].keys() == {
        "application/json",
        "application/octet-stream",
        "application/x-tfrecord",
    }
    assert {"200", "400", "401", "404", "408", "413", "415", "422", "503", "504"} == operation["responses"].keys()


def test_the_docs_page_and_its_assets_come_from_this_host_alone(frame_level: TestClient) -> None:
    page = frame_level.get("/docs").text
    assert not re.search(r"(?:https?:)?//[a-z]", page), page
    links = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(links) == 3
    for link in links:
        assert frame_level.get(link).status_code == 200
    assert "/openapi.json" in page

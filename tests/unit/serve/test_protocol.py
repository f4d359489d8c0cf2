"""The Open Inference Protocol as a public client speaks it, and every refusal in the protocol's form."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http
from fastapi.testclient import TestClient
from tritonclient.utils import InferenceServerException

from serve.http.api import build_api
from serve.settings import Limits, ServeArgs
from tests.support.live_server import serving
from tests.support.local_service import LocalService
from yt8m_ray.data.format.features import VideoRow
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.topk import TopK

GENERATOR = np.random.default_rng(7)
FEATURES = {
    "rgb": GENERATOR.integers(0, 256, (3, 5, 8), np.uint8),
    "audio": GENERATOR.integers(0, 256, (3, 5, 4), np.uint8),
}
MEANS = {"mean_rgb": GENERATOR.normal(size=(2, 8)).astype(np.float32), "mean_audio": np.zeros((2, 4), np.float32)}
INFER = "/v2/models/yt8m/infer"


@pytest.fixture
def frame_level(save_tiny_checkpoint: Callable[..., Path]) -> LocalService:
    return LocalService(Predictor.from_path(save_tiny_checkpoint()), Limits(max_videos=4, max_body_bytes=20_000))


@pytest.fixture
def video_level(save_tiny_checkpoint: Callable[..., Path]) -> LocalService:
    features = {"features": {"mean_rgb": 8, "mean_audio": 4}}
    return LocalService(Predictor.from_path(save_tiny_checkpoint("means", data=features)))


@pytest.fixture
def client(frame_level: LocalService) -> TestClient:
    return TestClient(build_api(frame_level), raise_server_exceptions=False)


@pytest.fixture
def triton(frame_level: LocalService) -> Iterator[tritonclient.http.InferenceServerClient]:
    with serving(frame_level) as port:
        client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}")
        yield client
        client.close()


def inputs_of(features: dict[str, np.ndarray], *, binary: bool = True) -> list[tritonclient.http.InferInput]:
    names = {"uint8": "UINT8", "float32": "FP32", "int32": "INT32", "int64": "INT64"}
    inputs = []
    for name, values in features.items():
        tensor = tritonclient.http.InferInput(name, list(values.shape), names[str(values.dtype)])
        tensor.set_data_from_numpy(values, binary_data=binary)
        inputs.append(tensor)
    return inputs


def expected(service: LocalService, features: dict[str, np.ndarray], top_k: int) -> TopK:
    frames = np.concatenate(list(features.values()), axis=-1)
    rows = [VideoRow("x", np.atleast_2d(each), np.empty(0, np.int32)) for each in frames]
    return service.host.current.predictor.predict(rows, top_k)


@pytest.mark.parametrize("binary_inputs", [True, False])
@pytest.mark.parametrize("binary_outputs", [True, False])
def test_a_public_client_gets_the_scores_of_the_predictor(
    triton: tritonclient.http.InferenceServerClient,
    frame_level: LocalService,
    binary_inputs: bool,
    binary_outputs: bool,
) -> None:
    outputs = [
        tritonclient.http.InferRequestedOutput(name, binary_outputs) for name in ("scores", "class_ids", "names")
    ]
    result = triton.infer(
        "yt8m",
        inputs_of(FEATURES, binary=binary_inputs),
        outputs=outputs,
        request_id="mine",
        parameters={"top_k": 4},
    )
    best = expected(frame_level, FEATURES, 4)
    vocabulary = frame_level.host.current.predictor.vocabulary
    assert result.get_response()["id"] == "mine"
    assert result.get_response()["model_name"] == "yt8m"
    assert [output["name"] for output in result.get_response()["outputs"]] == ["scores", "class_ids", "names"]
    assert result.as_numpy("class_ids").dtype == np.int64 and result.as_numpy("scores").dtype == np.float32
    assert result.as_numpy("class_ids").tolist() == best.class_ids.tolist()
    np.testing.assert_allclose(result.as_numpy("scores"), best.scores.numpy(), atol=1e-5)
    names = result.as_numpy("names")
    found = [[name.decode() if isinstance(name, bytes) else name for name in row] for row in names.tolist()]
    assert found == [[vocabulary.name(class_id) for class_id in row] for row in best.class_ids.tolist()]


def test_without_outputs_a_client_gets_class_ids_and_scores_of_twenty_classes(
    triton: tritonclient.http.InferenceServerClient,
) -> None:
    result = triton.infer("yt8m", inputs_of(FEATURES))
    assert [output["name"] for output in result.get_response()["outputs"]] == ["class_ids", "scores"]
    assert result.as_numpy("scores").shape == (3, 20)


@pytest.mark.parametrize("lengths", [np.array([5, 2, 1], np.int32), np.array([[5], [2], [1]], np.int64)])
def test_padding_of_a_batch_is_not_looked_at(
    triton: tritonclient.http.InferenceServerClient, frame_level: LocalService, lengths: np.ndarray
) -> None:
    result = triton.infer("yt8m", inputs_of({**FEATURES, "num_frames": lengths}))
    for index, length in enumerate(lengths.reshape(-1).tolist()):
        alone = {name: values[index : index + 1, :length] for name, values in FEATURES.items()}
        best = expected(frame_level, alone, 20)
        assert result.as_numpy("class_ids")[index].tolist() == best.class_ids[0].tolist()
        np.testing.assert_allclose(result.as_numpy("scores")[index], best.scores[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("binary", [True, False])
def test_a_video_level_model_takes_means(video_level: LocalService, binary: bool) -> None:
    with serving(video_level) as port:
        triton = tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}")
        result = triton.infer("yt8m", inputs_of(MEANS, binary=binary))
        metadata = triton.get_model_metadata("yt8m")
        triton.close()
    best = expected(video_level, MEANS, 20)
    assert result.as_numpy("class_ids").tolist() == best.class_ids.tolist()
    np.testing.assert_allclose(result.as_numpy("scores"), best.scores.numpy(), atol=1e-5)
    assert metadata["inputs"] == [
        {"name": "mean_rgb", "datatype": "FP32", "shape": [-1, 8]},
        {"name": "mean_audio", "datatype": "FP32", "shape": [-1, 4]},
    ]


def test_the_server_and_its_model_describe_themselves(
    triton: tritonclient.http.InferenceServerClient, frame_level: LocalService
) -> None:
    version = frame_level.host.current.version
    assert triton.is_server_live() and triton.is_server_ready()
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data", "statistics"]
    assert triton.is_model_ready("yt8m") and triton.is_model_ready("yt8m", version)
    assert not triton.is_model_ready("other") and not triton.is_model_ready("yt8m", "0")
    metadata = triton.get_model_metadata("yt8m")
    assert metadata == triton.get_model_metadata("yt8m", version)
    assert metadata["name"] == "yt8m" and metadata["versions"] == [version]
    assert metadata["inputs"] == [
        {"name": "rgb", "datatype": "UINT8", "shape": [-1, -1, 8]},
        {"name": "audio", "datatype": "UINT8", "shape": [-1, -1, 4]},
        {"name": "num_frames", "datatype": "INT64", "shape": [-1]},
    ]
    assert [(each["name"], each["datatype"]) for each in metadata["outputs"]] == [
        ("class_ids", "INT64"),
        ("scores", "FP32"),
        ("names", "BYTES"),
    ]


def test_a_service_that_is_not_ready_says_so(client: TestClient, frame_level: LocalService) -> None:
    frame_level.ready = False
    assert client.head("/v2/health/ready").status_code == 503
    assert client.head("/v2/health/live").status_code == 200
    for path in ("/v2/health/ready", "/v2/models/yt8m/ready"):
        assert "not ready" in refusal(client.get(path), 503)
    assert client.get("/v2/health/live").status_code == 200


def test_a_version_is_answered_by_itself_or_refused(
    triton: tritonclient.http.InferenceServerClient, frame_level: LocalService
) -> None:
    version = frame_level.host.current.version
    assert triton.infer("yt8m", inputs_of(FEATURES), version).get_response()["model_version"] == version
    for name, asked in (("yt8m", "123"), ("other", "")):
        with pytest.raises(InferenceServerException, match="is not served; valid") as caught:
            triton.infer(name, inputs_of(FEATURES), asked)
        assert caught.value.status() == "404"


def test_a_client_is_told_what_is_wrong(triton: tritonclient.http.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="this model needs rgb, audio; audio is missing") as caught:
        triton.infer("yt8m", inputs_of({"rgb": FEATURES["rgb"]}))
    assert caught.value.status() == "400"


def refusal(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    message: str = response.json()["error"]
    assert "Traceback" not in message
    return message


def tensor(feature: str, **changes: Any) -> dict[str, Any]:
    values = FEATURES[feature][:1, :2]
    given = {"name": feature, "datatype": "UINT8", "shape": list(values.shape), "data": values.tolist(), **changes}
    return {key: value for key, value in given.items() if value is not None}


def test_flat_and_nested_lists_get_the_same_answer(client: TestClient) -> None:
    answers = []
    for flat in (True, False):
        data = {
            name: FEATURES[name][:1, :2].reshape(-1).tolist() if flat else FEATURES[name][:1, :2].tolist()
            for name in FEATURES
        }
        body = {"inputs": [tensor(name, data=data[name]) for name in FEATURES]}
        answers.append(client.post(INFER, json=body).json()["outputs"])
    assert answers[0] == answers[1]


def test_without_an_id_the_answer_has_that_of_the_request(client: TestClient) -> None:
    response = client.post(INFER, json={"inputs": [tensor("rgb"), tensor("audio")]})
    assert response.json()["id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "video"}, "'video': no input of this model; valid: rgb, audio, num_frames"),
        ({"name": "audio"}, "'audio': is given twice"),
        ({"datatype": "FP32"}, "rgb: expected UINT8, found 'FP32'"),
        ({"shape": [1, 2]}, "rgb: expected int values alone"),
        ({"shape": [1, 2, 4]}, "rgb: expected data in lists of the shape"),
        ({"shape": [1, -2, 8]}, r"inputs\[0\].shape\[1\]: Input should be greater than or equal to 1"),
        ({"shape": [2**31 - 1, 2**31 - 1, 2**31 - 1]}, "do not match"),
        ({"shape": [2**31, 2, 8]}, r"inputs\[0\].shape\[0\]: Input should be less than or equal to 2147483647"),
        ({"shape": [10**4200, 10**4200, 1], "data": [1]}, r"inputs\[0\].shape\[0\]: "),
        ({"shape": [10**4200, 10**4200, 1], "data": None, "parameters": {"binary_data_size": 1}}, r"shape\[0\]: "),
        ({"shape": [1, 2.0, 8]}, r"inputs\[0\].shape"),
        ({"shape": []}, r"inputs\[0\].shape"),
        ({"data": [1] * 15}, r"has 16 values, found 15"),
        ({"data": [256] * 16}, "expected values that fit UINT8"),
        ({"data": [-1] * 16}, "expected values that fit UINT8"),
        ({"data": [1.0] * 16}, "expected int values alone"),
        ({"data": [True] * 16}, "expected int values alone"),
        ({"data": ["1"] * 16}, "expected int values alone"),
        ({"data": [None] * 16}, "expected int values alone"),
        ({"data": [[[1] * 8, [1] * 7]]}, "expected data in lists of the shape"),
        ({"data": None}, "rgb: expected data, or binary_data_size"),
        ({"data": None, "parameters": {"binary_data_size": 16}}, "16 bytes promised, 0 found"),
        ({"data": None, "parameters": {"binary_data_size": 17}}, "has 16 bytes, binary_data_size is 17"),
        ({"data": None, "parameters": {"shared_memory_region": "x"}}, "shared_memory_region is not offered"),
        ({"parameters": {"binary_data_size": 16}}, "expected data or binary_data_size, found both"),
        ({"shape": [1, 0, 8], "data": []}, r"shape\[1\]: Input should be greater than or equal to 1"),
        ({"shape": [2, 1, 8]}, "do not match"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(client: TestClient, changes: dict[str, Any], message: str) -> None:
    body = {"inputs": [tensor("rgb", **changes), tensor("audio")]}
    assert re.search(message, refusal(client.post(INFER, json=body), 400))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parameters": {"top_k": 31}}, "top_k: expected 1 to 30, found 31"),
        ({"parameters": {"top_k": 0}}, "top_k: expected 1 to 30, found 0"),
        ({"parameters": {"top_k": "5"}}, "top_k: expected a whole number"),
        ({"parameters": {"top_k": True}}, "top_k: expected a whole number"),
        ({"parameters": {"binary_data_output": 1}}, "expected true or false"),
        ({"outputs": [{"name": "logits"}]}, "'logits': no output; valid: class_ids, scores, names"),
        ({"outputs": [{"name": "scores"}, {"name": "scores"}]}, "'scores': is asked for twice"),
        ({"outputs": [{"name": "scores", "parameters": {"classification": 3}}]}, "classification is not offered"),
        ({"inputs": []}, "inputs: "),
        ({"id": 3}, "id: "),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(client: TestClient, fields: dict[str, Any], message: str) -> None:
    body = {"inputs": [tensor("rgb"), tensor("audio")], **fields}
    assert message in refusal(client.post(INFER, json=body), 400)


NOTHING = {"id": None, "parameters": None, "outputs": None}


@pytest.mark.parametrize("key", NOTHING)
def test_null_is_what_is_not_given(client: TestClient, key: str) -> None:
    def answer(**fields: Any) -> Any:
        response = client.post(INFER, json={"inputs": [tensor("rgb"), tensor("audio")], **fields})
        assert response.status_code == 200, response.text
        return response.json()["outputs"]

    assert answer(**{key: None}) == answer()


def test_what_the_types_of_mlserver_send_is_answered(client: TestClient) -> None:
    inputs = [{**tensor("rgb"), "parameters": None}, {**tensor("audio"), "parameters": {"content_type": None}}]
    outputs = [{"name": "scores", "parameters": None}, {"name": "class_ids", "parameters": {"binary_data": None}}]
    parameters = {"top_k": None, "binary_data_output": None, "content_type": "np", "headers": {"a": "b"}}
    body = {"id": None, "parameters": parameters, "inputs": inputs, "outputs": outputs}
    answer = client.post(INFER, json=body).json()
    assert [output["name"] for output in answer["outputs"]] == ["scores", "class_ids"]
    assert [output["shape"] for output in answer["outputs"]] == [[1, 20], [1, 20]]


@pytest.mark.parametrize("lengths", [[0], [3], [-1], [1, 1]])
def test_a_number_of_frames_that_is_not_there_is_refused(client: TestClient, lengths: list[int]) -> None:
    given = {"name": "num_frames", "datatype": "INT64", "shape": [len(lengths)], "data": lengths}
    body = {"inputs": [tensor("rgb"), tensor("audio"), given]}
    assert "num_frames: expected" in refusal(client.post(INFER, json=body), 400)


def test_numbers_that_are_not_finite_are_refused(video_level: LocalService) -> None:
    client = TestClient(build_api(video_level))
    for number in ("NaN", "Infinity", "1e39"):
        body = (
            '{"inputs": [{"name": "mean_rgb", "datatype": "FP32", "shape": [1, 8], '
            f'"data": [{number}, 0, 0, 0, 0, 0, 0, 0]}}, '
            '{"name": "mean_audio", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]}]}'
        )
        assert "finite" in refusal(client.post(INFER, content=body), 400)


def test_too_many_videos_and_frames_are_refused(client: TestClient) -> None:
    def post(num_videos: int, num_frames: int) -> httpx.Response:
        shapes = {name: [num_videos, num_frames, size] for name, size in (("rgb", 8), ("audio", 4))}
        inputs = [tensor(name, shape=shape, data=[0] * int(np.prod(shape))) for name, shape in shapes.items()]
        return client.post(INFER, json={"inputs": inputs})

    assert "1 to 4 videos a request, found 5" in refusal(post(5, 1), 400)
    assert "expected 1 to 6 frames, found 7" in refusal(post(1, 7), 400)


@pytest.mark.parametrize("told", ["-1", "x", "99999", "1" * 30, "²"])
def test_a_wrong_place_of_the_binary_data_is_refused(client: TestClient, told: str) -> None:
    headers = {"inference-header-content-length": told.encode("latin-1")}
    refusal(client.post(INFER, content=b'{"inputs": []}', headers=headers), 400)


def test_binary_data_that_is_left_over_is_refused(client: TestClient) -> None:
    text = json.dumps({"inputs": [tensor("rgb"), tensor("audio")]}).encode()
    headers = {"inference-header-content-length": str(len(text))}
    assert "3 bytes follow" in refusal(client.post(INFER, content=text + b"abc", headers=headers), 400)


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b"\xff\xfe"])
def test_what_is_not_json_is_malformed(client: TestClient, body: bytes) -> None:
    assert "not JSON" in refusal(client.post(INFER, content=body), 400)


def test_the_limits_of_all_requests_count_here_too(client: TestClient) -> None:
    assert "at most 20000 bytes" in refusal(client.post(INFER, content=b"x" * 20_001), 413)
    assert "content-encoding" in refusal(client.post(INFER, content=b"x", headers={"content-encoding": "br"}), 415)
    refusal(client.post(INFER, content=b"x", headers={"x-request-timeout-seconds": "0"}), 400)
    assert "unknown parameter" in refusal(client.post(INFER + "?top_k=3", content=b"x"), 400)


def test_a_deadline_that_passes_is_told_in_the_form_of_the_protocol(
    client: TestClient, frame_level: LocalService
) -> None:
    frame_level.host.current.predictor.model.register_forward_pre_hook(lambda *_: time.sleep(0.4))
    body = {"inputs": [tensor("rgb"), tensor("audio")]}
    response = client.post(INFER, json=body, headers={"x-request-timeout-seconds": "0.1"})
    assert "deadline" in refusal(response, 504)


def test_paths_and_methods_that_are_not_there_have_the_form_of_the_protocol(client: TestClient) -> None:
    assert "nothing here" in refusal(client.get("/v2/nothing"), 404)
    response = client.get(INFER)
    assert refusal(response, 405) == f"GET {INFER}: expected POST here" and response.headers["allow"] == "POST"
    response = client.put("/v2/repository/index")
    assert "expected GET or HEAD or POST here" in refusal(response, 405)
    assert response.headers["allow"] == "GET, HEAD, POST"
    assert client.get("/v20").json()["error"].keys() == {"code", "message", "request_id"}


def test_the_openapi_document_describes_the_protocol(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    infer = document["paths"]["/v2/models/{name}/versions/{version}/infer"]["post"]
    assert infer["requestBody"]["content"].keys() == {"application/json", "application/octet-stream"}
    assert [each["name"] for each in infer["parameters"]] == ["name", "version", "inference-header-content-length"]
    assert {"200", "400", "401", "404", "408", "413", "415", "503", "504"} == infer["responses"].keys()
    assert "InferenceRequest" in document["components"]["schemas"]


def test_a_token_is_asked_for_but_not_by_probes(save_tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    predictor = Predictor.from_path(save_tiny_checkpoint())
    client = TestClient(build_api(LocalService(predictor, args=ServeArgs(tokens_file=str(tokens), name="videos"))))
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/videos/ready"):
        assert client.get(path).status_code == 200
    assert "token" in refusal(client.get("/v2/models/videos"), 401)
    assert "token" in refusal(client.post("/v2/models/videos/infer", content=b"{}"), 401)
    assert client.get("/v2/models/videos", headers={"authorization": "Bearer secret"}).status_code == 200


def test_requests_are_counted_by_the_pattern_of_their_path(client: TestClient, frame_level: LocalService) -> None:
    client.get("/v2/models/yt8m/versions/123/ready")
    client.get("/v2/models/other/ready")
    text = frame_level.metrics.text()
    assert 'route="/v2/models/{name}/versions/{version}/ready"' in text and "other" not in text

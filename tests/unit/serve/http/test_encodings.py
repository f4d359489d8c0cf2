"""Packed bodies: what is unpacked, how far, and what is refused."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http
from fastapi.testclient import TestClient

from serve.errors import RequestError
from serve.http.api import build_api
from serve.http.encodings import unpack
from serve.settings import Limits
from tests.support.live_server import serving
from tests.support.local_service import LocalService
from yt8m_ray.data.format.example import encode_sequence_example
from yt8m_ray.data.format.tfrecord import frame_record
from yt8m_ray.inference.predictor import Predictor

FRAMES = {"rgb": np.arange(32, dtype=np.uint8).reshape(4, 8), "audio": np.ones((4, 4), np.uint8)}
RECORD = encode_sequence_example({"id": [b"abcd"]}, FRAMES)
BODIES = {
    "application/octet-stream": RECORD,
    "application/json": json.dumps({"videos": [{n: x.tolist() for n, x in FRAMES.items()}]}).encode(),
    "application/x-tfrecord": frame_record(RECORD) * 3,
}


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def video_ids(response: httpx.Response) -> list[str]:
    return [json.loads(line)["video_id"] for line in response.text.splitlines()]


def gzip_in_members(data: bytes) -> bytes:
    return b"".join(gzip.compress(part) for part in (data[:20], b"", data[20:]))


PACK: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip in members": ("gzip", gzip_in_members),
    "x-gzip": ("X-GZip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "bare deflate": ("deflate", bare_deflate),
    "identity": ("identity", bytes),
    "identity, gzip": ("identity, gzip", gzip.compress),
}


@pytest.fixture
def service(save_tiny_checkpoint: Callable[..., Path]) -> LocalService:
    return LocalService(Predictor.from_path(save_tiny_checkpoint()), Limits(max_body_bytes=5 * 2**20))


@pytest.fixture
def client(service: LocalService) -> Iterator[TestClient]:
    with TestClient(build_api(service)) as client:
        yield client


def post(client: TestClient, content: bytes, encoding: str, content_type: str) -> httpx.Response:
    headers = {"content-type": content_type, "content-encoding": encoding}
    return client.post("/v1/predict", content=content, headers=headers)


@pytest.mark.parametrize("content_type", BODIES)
@pytest.mark.parametrize("name", PACK)
def test_a_packed_body_is_answered_as_it_is_unpacked(client: TestClient, name: str, content_type: str) -> None:
    encoding, pack = PACK[name]
    plain = client.post("/v1/predict", content=BODIES[content_type], headers={"content-type": content_type})
    packed = post(client, pack(BODIES[content_type]), encoding, content_type)
    assert (plain.status_code, packed.status_code) == (200, 200), packed.text
    if content_type == "application/x-tfrecord":
        assert video_ids(packed) == video_ids(plain) == ["abcd"] * 3
    else:
        assert packed.json()["predictions"] == plain.json()["predictions"]


@pytest.mark.parametrize("content_type", BODIES)
@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "deflate, gzip", "compress", "gzip, br", "nonsense"])
def test_another_encoding_is_refused_with_those_that_are_taken(
    client: TestClient, encoding: str, content_type: str
) -> None:
    response = post(client, b"x", encoding, content_type)
    assert response.status_code == 415
    assert response.headers["accept-encoding"] == "gzip, deflate"
    assert "expected gzip or deflate once, or none" in response.json()["error"]["message"]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_public_client_may_pack_its_tensors(service: LocalService, algorithm: str) -> None:
    inputs = []
    for name, values in FRAMES.items():
        tensor = tritonclient.http.InferInput(name, [1, *values.shape], "UINT8")
        tensor.set_data_from_numpy(values[None])
        inputs.append(tensor)
    with serving(service) as port:
        triton = tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}")
        answers = [
            triton.infer("yt8m", inputs, request_compression_algorithm=each).as_numpy("class_ids").tolist()
            for each in (None, algorithm)
        ]
        triton.close()
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (b"nonsense", "gzip", "not gzip"),
        (b"", "gzip", "cut short"),
        (gzip.compress(RECORD)[:-9], "gzip", "cut short"),
        (gzip.compress(RECORD) + b"more", "gzip", "4 bytes follow"),
        (gzip.compress(RECORD) + gzip.compress(RECORD)[:-9], "gzip", "cut short"),
        (zlib.compress(RECORD) * 2, "deflate", "bytes follow the deflate data"),
        (gzip.compress(RECORD) + gzip.compress(b"") * 100, "gzip", "101 gzip members"),
        (b"\xff" * 100, "deflate", "not deflate"),
        (gzip.compress(gzip.compress(RECORD)), "gzip", "not a SequenceExample"),
    ],
    ids=["text", "empty", "cut", "followed", "second cut", "two zlib", "many members", "no deflate", "packed twice"],
)
def test_what_cannot_be_unpacked_is_malformed(client: TestClient, content: bytes, encoding: str, message: str) -> None:
    response = post(client, content, encoding, "application/octet-stream")
    assert response.status_code == 400 and message in response.json()["error"]["message"]


@pytest.mark.parametrize("name", ["gzip", "deflate", "bare deflate"])
def test_a_bomb_is_refused(client: TestClient, name: str) -> None:
    encoding, pack = PACK[name]
    response = post(client, pack(bytes(6 * 2**20)), encoding, "application/octet-stream")
    assert response.status_code == 413
    assert "bytes once it is unpacked, found more" in response.json()["error"]["message"]


def test_a_bomb_is_unpacked_no_further_than_others_grow() -> None:
    bomb = gzip.compress(bytes(2**25))
    with pytest.raises(RequestError, match=f"at most {2**22 + 64 * 2**14} bytes once it is unpacked") as caught:
        unpack(bomb, "gzip", 2**25)  # of which the first 16 KiB were looked at
    assert caught.value.status == 413


def test_members_of_gzip_data_may_end_anywhere_and_be_many() -> None:
    content = np.random.default_rng(1).integers(0, 256, 2**23, np.uint8).tobytes()
    size = 2**16 - 300  # as bgzip cuts it; with its header a member ends now here, now there in a step
    members = [gzip.compress(content[start : start + size], 1) for start in range(0, len(content), size)]
    assert len(members) > 120
    assert unpack(b"".join(members), "gzip", len(content)) == content


def test_a_body_may_grow_to_as_much_as_one_that_is_not_packed() -> None:
    content = np.random.default_rng(1).integers(0, 3, 2**18, np.uint8).tobytes()  # shrinks to a fifth
    packed = gzip.compress(content)
    assert unpack(packed, "gzip", len(content)) == content
    with pytest.raises(RequestError, match=f"at most {len(content) - 1} bytes"):
        unpack(packed, "gzip", len(content) - 1)

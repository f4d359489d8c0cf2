"""A whole shard as a body: order, errors in the middle and at the end, memory, pace and departures."""

from __future__ import annotations

import gzip
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from fastapi.testclient import TestClient

from serve.http.api import build_api
from serve.model.batching import Batcher
from serve.settings import Limits
from tests.support.live_server import Upload, serving, upload, wait_until
from tests.support.local_service import LocalService
from tests.support.wire import field
from yt8m_ray.data.format.example import decode_record, encode_sequence_example
from yt8m_ray.data.format.features import to_row
from yt8m_ray.data.format.tfrecord import frame_record
from yt8m_ray.inference.predictor import Predictor

GENERATOR = np.random.default_rng(5)
SHARD_TYPE = {"content-type": "application/x-tfrecord"}
PATH = "/v1/predict"


def record(video_id: str, *, filling: int = 0) -> bytes:
    """Returns a payload; `filling` bytes of it belong to a field that nobody knows."""
    frames = {name: GENERATOR.integers(0, 256, (4, size), np.uint8) for name, size in (("rgb", 8), ("audio", 4))}
    payload = encode_sequence_example({"id": [video_id.encode()]}, frames)
    return payload + field(15, bytes(filling)) if filling else payload


RECORDS = [record(f"v{index}") for index in range(50)]
SHARD = b"".join(map(frame_record, RECORDS))


@pytest.fixture
def service(save_tiny_checkpoint: Callable[..., Path]) -> LocalService:
    return LocalService(Predictor.from_path(save_tiny_checkpoint()), Limits(max_batch_size=4, max_queued_videos=20))


@pytest.fixture
def client(service: LocalService) -> TestClient:
    return TestClient(build_api(service), raise_server_exceptions=False)


def post(client: TestClient, body: bytes, query: str = "") -> list[dict[str, Any]]:
    response = client.post(PATH + query, content=body, headers=SHARD_TYPE)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def refusal(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    message: str = response.json()["error"]["message"]
    return message


def slow_down(service: LocalService, seconds: float) -> None:
    """Makes each batch take longer."""
    model = service.host.current.predictor.model
    model.register_forward_pre_hook(lambda *_: time.sleep(seconds))


def test_every_record_is_answered_in_order_with_the_scores_of_the_predictor(
    client: TestClient, service: LocalService
) -> None:
    lines = post(client, SHARD, "?top_k=3")
    predictor = service.host.current.predictor
    rows = [to_row(decode_record(payload), predictor.spec) for payload in RECORDS]
    best = predictor.predict(rows, 3)
    assert [line["record"] for line in lines] == list(range(50))
    assert [line["video_id"] for line in lines] == [row.video_id for row in rows]
    assert [[label["class_id"] for label in line["labels"]] for line in lines] == best.class_ids.tolist()
    for line, scores in zip(lines, best.scores.tolist(), strict=True):
        assert [label["score"] for label in line["labels"]] == pytest.approx(scores, abs=1e-6)
        assert line["model_version"] == predictor.version and "error" not in line


def test_a_packed_shard_gets_the_same_answer(client: TestClient) -> None:
    answers = [
        [(line["video_id"], [label["class_id"] for label in line["labels"]]) for line in post(client, body, "?top_k=3")]
        for body in (gzip.compress(SHARD), SHARD)
    ]
    assert answers[0] == answers[1] and len(answers[0]) == 50


def test_the_options_of_a_request_count_for_every_line(client: TestClient) -> None:
    lines = post(client, SHARD, "?top_k=30&names=false&threshold=0.9")
    labels = [label for line in lines for label in line["labels"]]
    assert labels and all(label.keys() == {"class_id", "score"} and label["score"] >= 0.9 for label in labels)


@pytest.mark.parametrize("broken", [b"", b"nonsense", encode_sequence_example({}, {"rgb": np.zeros((4, 8), np.uint8)})])
def test_a_record_that_cannot_be_decoded_costs_its_own_line_alone(client: TestClient, broken: bytes) -> None:
    lines = post(client, b"".join(map(frame_record, [*RECORDS[:7], broken, *RECORDS[7:20]])))
    assert [line["record"] for line in lines] == list(range(21))
    assert [line["record"] for line in lines if "error" in line] == [7]
    assert lines[7].keys() == {"record", "error"}
    assert lines[7]["error"].keys() == {"code", "message", "request_id"}
    assert lines[20]["video_id"] == "v19"


def test_a_wrong_checksum_ends_the_answer_with_an_error(client: TestClient) -> None:
    bad = bytearray(frame_record(RECORDS[2]))
    bad[20] ^= 1
    lines = post(client, b"".join([*map(frame_record, RECORDS[:2]), bytes(bad), *map(frame_record, RECORDS[3:])]))
    assert [line.get("video_id") for line in lines] == ["v0", "v1", None]
    assert lines[2]["is_last"] and lines[2]["record"] == 2
    assert lines[2]["error"]["code"] == "malformed_request" and "checksum" in lines[2]["error"]["message"]


def test_a_body_that_is_cut_short_ends_with_an_error(client: TestClient) -> None:
    lines = post(client, SHARD[:-10])
    assert len(lines) == 50 and "error" not in lines[48]
    assert lines[49]["is_last"] and "promised" in lines[49]["error"]["message"]


@pytest.mark.parametrize(
    ("body", "message"), [(b"", "0 bytes: no record"), (b"PNG", "not a TFRecord"), (bytes(99), "not a TFRecord")]
)
def test_what_is_no_shard_at_all_is_refused_by_its_status(client: TestClient, body: bytes, message: str) -> None:
    assert message in refusal(client.post(PATH, content=body, headers=SHARD_TYPE), 400)


def test_a_large_record_ends_the_answer(client: TestClient, service: LocalService) -> None:
    service.limits = service.limits.model_copy(update={"max_body_bytes": 1000})
    lines = post(client, b"".join(map(frame_record, [RECORDS[0], record("large", filling=1000), RECORDS[1]])))
    assert [line["record"] for line in lines] == [0, 1]
    assert lines[1]["is_last"] and lines[1]["error"]["code"] == "body_too_large"


def test_a_long_stream_is_refused_by_what_it_says_and_by_what_it_is(client: TestClient, service: LocalService) -> None:
    service.limits = service.limits.model_copy(update={"max_stream_bytes": 2000})
    assert "at most 2000 bytes" in refusal(client.post(PATH, content=SHARD, headers=SHARD_TYPE), 413)

    with serving(service) as port:
        request = Upload(port, PATH, SHARD_TYPE)
        request.send(frame_record(RECORDS[0]))
        response = request.response()
        assert json.loads(response.readline())["video_id"] == "v0"
        request.send(SHARD)
        lines = [json.loads(line) for line in response]
        request.close()
    assert lines[-1]["is_last"] and lines[-1]["error"]["code"] == "body_too_large"


def test_a_packed_stream_is_measured_unpacked(client: TestClient, service: LocalService) -> None:
    service.limits = service.limits.model_copy(update={"max_stream_bytes": 60_000})
    body = gzip.compress(b"".join(frame_record(record("x", filling=5000)) for _ in range(50)))
    assert len(body) < 30_000
    assert "at most 60000 bytes" in refusal(client.post(PATH, content=body, headers=SHARD_TYPE), 413)


@pytest.mark.parametrize("query", ["?top_k=31", "?top_k=0", "?timeline=true", "?names=1"])
def test_options_that_no_record_can_have_are_refused_at_once(client: TestClient, query: str) -> None:
    refusal(client.post(PATH + query, content=SHARD, headers=SHARD_TYPE), 422)


def test_a_stream_asks_only_while_half_of_the_queue_is_free(service: LocalService) -> None:
    service.limits = Limits(max_batch_size=8, max_queued_videos=6)
    most = []

    class Watched(Batcher):
        def ask(self, *arguments: Any) -> Any:
            most.append(self.num_queued)
            return super().ask(*arguments)

    watched = LocalService(service.host.current.predictor, service.limits, batcher=Watched)
    slow_down(watched, 0.01)
    lines = post(TestClient(build_api(watched)), SHARD)
    assert len(lines) == 50 and not any("error" in line for line in lines)
    assert max(most) <= 3


def test_the_deadline_counts_for_each_record_and_not_for_the_stream(client: TestClient, service: LocalService) -> None:
    service.limits = service.limits.model_copy(
        update={"target_latency_s": 10.0}
    )  # batches stay as large as they can be
    slow_down(service, 0.1)
    headers = {**SHARD_TYPE, "x-request-timeout-seconds": "2"}
    started = time.perf_counter()
    response = client.post(PATH, content=2 * SHARD, headers=headers)
    assert time.perf_counter() - started > 2
    assert [json.loads(line)["record"] for line in response.text.splitlines()] == list(range(100))
    assert "error" not in response.text


def test_a_record_that_is_not_answered_in_time_has_a_line_that_says_so(
    client: TestClient, service: LocalService
) -> None:
    slow_down(service, 0.3)
    response = client.post(PATH, content=SHARD, headers={**SHARD_TYPE, "x-request-timeout-seconds": "0.05"})
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [line["record"] for line in lines] == list(range(50))
    assert lines[0]["error"]["code"] == "deadline_exceeded"
    assert not any("is_last" in line for line in lines)


def test_answers_come_while_the_shard_is_still_sent(service: LocalService) -> None:
    with serving(service) as port:
        request = Upload(port, PATH, SHARD_TYPE)
        request.send(frame_record(RECORDS[0]) + frame_record(RECORDS[1])[:30])
        response = request.response()
        assert json.loads(response.readline())["video_id"] == "v0"
        request.send(frame_record(RECORDS[1])[30:])
        assert json.loads(response.readline())["video_id"] == "v1"
        request.finish()
        assert response.read() == b""
        request.close()


def test_a_client_that_stops_sending_is_told_so(service: LocalService) -> None:
    service.limits = service.limits.model_copy(update={"body_timeout_s": 0.3})
    with serving(service) as port:
        request = Upload(port, PATH, SHARD_TYPE)
        request.send(SHARD[:-10])
        lines = [json.loads(line) for line in request.response()]
        request.close()
    assert len(lines) == 50
    assert lines[-1]["is_last"] and lines[-1]["error"]["code"] == "body_too_slow"


def test_an_error_reaches_a_client_that_still_sends(service: LocalService) -> None:
    parts = [SHARD, struct.pack("<QI", 100, 0), *[bytes(100_000)] * 50]
    with serving(service) as port:
        status, lines = upload(port, PATH, parts, SHARD_TYPE)
    assert status == 200 and len(lines) == 51
    assert lines[-1]["is_last"] and lines[-1]["error"]["code"] == "malformed_request"


def test_memory_does_not_grow_with_the_shard(service: LocalService) -> None:
    process = psutil.Process()
    large = frame_record(record("large", filling=200_000))
    seen: list[int] = []

    def parts(num_records: int) -> Iterator[bytes]:
        for index in range(num_records):
            yield large
            if index % 50 == 0:
                seen.append(process.memory_info().rss)

    with serving(service) as port:
        upload(port, PATH, parts(100), SHARD_TYPE)  # what is allocated once
        before = process.memory_info().rss
        seen.clear()
        status, lines = upload(port, PATH, parts(1000), SHARD_TYPE)
    assert status == 200 and len(lines) == 1000 and not any("error" in line for line in lines)
    assert max(seen) - before < 40e6, "200 MB were sent"


def test_a_client_is_read_no_faster_than_the_model_answers(service: LocalService) -> None:
    slow_down(service, 0.1)
    sent: list[int] = []
    large = frame_record(record("large", filling=300_000))
    with serving(service) as port:
        request = Upload(port, PATH, SHARD_TYPE)

        def send() -> None:
            for index in range(400):
                try:
                    request.send(large)
                except OSError:
                    return
                sent.append(index)

        sending = threading.Thread(target=send)
        sending.start()
        time.sleep(1.0)
        # 4 videos in 0.1 s; 8 in flight, and what the sockets hold.
        assert len(sent) < 150
        request.socket.shutdown(2)
        request.close()
        sending.join(30)


def test_a_client_that_goes_cancels_what_is_in_flight(service: LocalService) -> None:
    slow_down(service, 0.2)
    asked: list[Any] = []

    class Watched(Batcher):
        def ask(self, *arguments: Any) -> Any:
            futures = super().ask(*arguments)
            asked.extend(futures)
            return futures

    watched = LocalService(service.host.current.predictor, service.limits, batcher=Watched)
    with serving(watched) as port:
        request = Upload(port, PATH, SHARD_TYPE)
        request.send(SHARD)
        request.response().readline()
        request.close()
        wait_until(lambda: bool(asked) and all(future.done() for future in asked))
        num_asked = len(asked)
        time.sleep(0.3)
        assert len(asked) == num_asked < 50
        assert any(future.cancelled() for future in asked)
        wait_until(lambda: 'route="/v1/predict",status="499"' in watched.metrics.text())


def test_a_client_that_reads_only_after_sending_is_told_to_read_before(service: LocalService) -> None:
    service.limits = service.limits.model_copy(update={"body_timeout_s": 0.5})
    large = b"".join(map(frame_record, [*RECORDS, record("large", filling=500_000)]))
    with serving(service) as port:
        request = Upload(port, PATH + "?top_k=30", SHARD_TYPE, buffer_bytes=4096)
        for _ in range(40):
            request.send(large)
        request.finish()
        lines = [json.loads(line) for line in request.response()]
        request.close()
    assert [line["record"] for line in lines] == list(range(len(lines)))
    assert 1 < len(lines) < 40 * 51
    assert lines[-1]["is_last"] and "read it while you send" in lines[-1]["error"]["message"]


def test_a_client_that_neither_reads_nor_sends_is_given_up(service: LocalService) -> None:
    service.limits = service.limits.model_copy(update={"body_timeout_s": 0.5})
    with serving(service) as port:
        request = Upload(port, PATH + "?top_k=30", SHARD_TYPE, buffer_bytes=4096)
        for _ in range(40):
            request.send(SHARD)
        wait_until(lambda: 'route="/v1/predict",status="499"' in service.metrics.text())
        request.close()


def test_what_has_arrived_of_a_record_is_held_until_it_is_whole_or_given_up(service: LocalService) -> None:
    whole = frame_record(record("long", filling=300_000))
    with serving(service) as port:
        request = Upload(port, PATH, SHARD_TYPE)
        request.send(whole[:200_000])
        wait_until(lambda: service.intake.num_bytes == 200_000)
        request.send(whole[200_000:])
        wait_until(lambda: service.intake.num_bytes == 0)
        request.send(whole[:100_000])
        wait_until(lambda: service.intake.num_bytes == 100_000)
        request.close()
        wait_until(lambda: service.intake.num_bytes == 0)


def test_a_shard_is_refused_while_others_hold_all_the_room(service: LocalService, client: TestClient) -> None:
    service.limits = Limits(max_pending_bytes=1000)
    service.intake.add(1000)
    response = client.post(PATH, content=SHARD, headers=SHARD_TYPE)
    assert "bodies of 1000 bytes are being read already" in refusal(response, 503)
    service.intake.remove(1000)
    assert len(post(client, SHARD)) == 50

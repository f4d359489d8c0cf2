"""Shards in an object store that refuses, falls silent and cuts connections; no Ray, but a real client and server."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.object_store import BUCKET, ENVIRONMENT, ObjectStore
from yt8m_ray.data.format.features import FeatureSpec, VideoRow
from yt8m_ray.data.format.tfrecord import read_payloads, write_records
from yt8m_ray.data.labels.soft_label_files import LabelledShard, SoftLabelIndex, to_label_table, write_labels
from yt8m_ray.data.labels.soft_labels import SoftLabels
from yt8m_ray.data.labels.video_weights import VideoWeights, save_weights
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.ray_dataset import estimate_num_videos
from yt8m_ray.data.pipeline.shards import expand_shards
from yt8m_ray.data.storage.filesystem import READ_AHEAD_BYTES, from_uri, match_uris, open_stream, total_bytes
from yt8m_ray.errors import NoShardsError

NUM_ATTEMPTS = 2
PAYLOADS = [random.Random(index).randbytes(60_000) for index in range(160)]
KEY = "train/train0000.tfrecord"


@pytest.fixture(scope="module")
def running_store() -> Iterator[ObjectStore]:
    with ObjectStore() as store:
        yield store


@pytest.fixture(scope="module")
def shard(running_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A shard of more than two reads, in the store under KEY, and smaller ones beside it."""
    path = tmp_path_factory.mktemp("shard") / "shard"
    write_records(str(path), PAYLOADS)
    data = path.read_bytes()
    assert 2 * READ_AHEAD_BYTES < len(data) < 3 * READ_AHEAD_BYTES
    running_store.put(KEY, data)
    for key in ("train/train0001.tfrecord", "train/train0002.tfrecord", "train/notes.txt", "test/test 0.tfrecord"):
        running_store.put(key, b"x" * 1000)
    return data


@pytest.fixture
def store(running_store: ObjectStore, shard: bytes, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The store, healthy, as the environment names it."""
    running_store.heal()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", running_store.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", str(NUM_ATTEMPTS))
    return running_store


def read(path: str) -> bytes:
    """Returns a file's bytes, asked for in pieces of odd sizes."""
    sizes, data = random.Random(0), bytearray()
    with open_stream(path) as stream:
        buffer = memoryview(bytearray(300_000))
        while num_read := stream.readinto(buffer[: sizes.randint(1, 300_000)]):
            data += buffer[:num_read]
    return bytes(data)


def test_a_shard_comes_back_as_it_was_stored(store: ObjectStore) -> None:
    with open_stream(f"s3://{BUCKET}/{KEY}") as stream:
        payloads = [bytes(payload) for _, _, payload in read_payloads(stream, path=KEY)]

    assert payloads == PAYLOADS


def test_a_shard_is_read_in_few_large_requests(store: ObjectStore, shard: bytes) -> None:
    read(f"s3://{BUCKET}/{KEY}")

    size, step = len(shard), READ_AHEAD_BYTES
    assert store.ranges(KEY) == [f"bytes={first}-{min(first + step, size) - 1}" for first in range(0, size, step)]


@pytest.mark.parametrize("fault", ["500", "503", "cut", "reset"])
@pytest.mark.parametrize("request_index", [0, 1, 2])
def test_a_passing_fault_in_any_read_leaves_the_right_bytes(
    store: ObjectStore, shard: bytes, fault: str, request_index: int
) -> None:
    store.faults = [""] * request_index + [fault]

    assert read(f"s3://{BUCKET}/{KEY}") == shard
    assert len(store.ranges(KEY)) == 4


@pytest.mark.parametrize("num_short", [1, 2])
@pytest.mark.parametrize("request_index", [0, 1, 2])
def test_an_answer_of_fewer_bytes_than_asked_for_is_asked_for_again(
    store: ObjectStore, shard: bytes, request_index: int, num_short: int
) -> None:
    store.faults = [""] * request_index + ["short"] * num_short

    assert read(f"s3://{BUCKET}/{KEY}") == shard


def test_answers_that_stay_short_are_an_error(store: ObjectStore) -> None:
    store.faults = [""] + ["short"] * 10

    with pytest.raises(OSError, match=rf"{KEY}: {READ_AHEAD_BYTES} bytes from {READ_AHEAD_BYTES} expected, fewer"):
        read(f"s3://{BUCKET}/{KEY}")


def test_an_error_longer_than_what_was_asked_for_is_asked_again(store: ObjectStore) -> None:
    path = store.put("small", b"x")
    store.faults = ["503", "500"]

    assert read(path) == b"x"


@pytest.mark.parametrize("size", [0, 1, 15, 17, READ_AHEAD_BYTES - 1, READ_AHEAD_BYTES, READ_AHEAD_BYTES + 1])
def test_objects_of_every_size_come_back(store: ObjectStore, size: int) -> None:
    data = random.Random(size).randbytes(size)

    assert read(store.put("size", data)) == data


def test_a_file_that_ends_before_its_size_is_an_error(store: ObjectStore) -> None:
    path = store.put("file", bytes(2 * READ_AHEAD_BYTES))
    buffer = bytearray(READ_AHEAD_BYTES)

    with open_stream(path) as stream:
        stream.readinto(buffer)
        store.put("file", bytes(READ_AHEAD_BYTES + 10))
        with pytest.raises(OSError, match=f"/file.*: {READ_AHEAD_BYTES} bytes from {READ_AHEAD_BYTES} expected, "):
            stream.readinto(buffer)


@pytest.mark.soak
def test_a_long_run_may_meet_any_number_of_passing_faults(store: ObjectStore) -> None:
    path = store.put("small", b"x")
    for index in range(300):
        store.faults = [("cut", "503", "reset")[index % 3]]
        assert read(path) == b"x"


@pytest.mark.soak
def test_silence_in_a_read_leaves_the_right_bytes(store: ObjectStore, shard: bytes) -> None:
    store.faults = ["", "silent"]

    assert read(f"s3://{BUCKET}/{KEY}") == shard


def test_many_faults_in_many_reads_leave_the_right_bytes(
    store: ObjectStore, shard: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "4")
    store.faults = ["cut", "", "reset", "cut", "", "500"]

    assert read(f"s3://{BUCKET}/{KEY}") == shard


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("500", OSError, "answers .*INTERNAL_FAILURE to every attempt; try again later"),
        ("503", OSError, "answers .*(SLOW_DOWN|SERVICE_UNAVAILABLE) to every attempt; try again later"),
        ("cut", ConnectionError, "break in every attempt: .*bytes missing"),
        ("reset", ConnectionError, "break in every attempt: .*reset by peer"),
        ("403", PermissionError, "refuses access .*; it was asked with AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_fault_that_stays_is_one_line_with_the_shard_and_the_store(
    store: ObjectStore, fault: str, error: type[OSError], message: str
) -> None:
    path = f"s3://{BUCKET}/{KEY}"
    store.faults = [""] + [fault] * 2 * NUM_ATTEMPTS

    with pytest.raises(error, match=rf"^{path}: .*{store.url}.*{message}") as caught:
        read(path)

    assert "\n" not in str(caught.value)
    assert len(store.ranges(KEY)) <= 1 + 2 * NUM_ATTEMPTS  # curl itself tries a reused connection twice


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("503", OSError, "answers .*to every attempt"),
        ("reset", ConnectionError, "break in every attempt"),
        ("403", PermissionError, "refuses access"),
    ],
)
@pytest.mark.parametrize(
    "ask", [open_stream, match_uris, lambda path: total_bytes([path])], ids=["open", "list", "size"]
)
def test_a_store_that_always_fails_is_named_whatever_it_is_asked(
    store: ObjectStore, fault: str, error: type[OSError], message: str, ask: object
) -> None:
    assert callable(ask)
    path = f"s3://{BUCKET}/{KEY}"
    store.always = fault

    with pytest.raises(error, match=rf"^{path}: .*{store.url}.*{message}"):
        ask(path)


def test_missing_credentials_are_said_to_be_missing(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    store.always = "403"

    with pytest.raises(PermissionError, match=r"expected credentials in AWS_ACCESS_KEY_ID .*, found none$"):
        read(f"s3://{BUCKET}/{KEY}")


def test_a_missing_object_is_named(store: ObjectStore) -> None:
    path = f"s3://{BUCKET}/train/missing.tfrecord"

    with pytest.raises(FileNotFoundError, match=path):
        read(path)


def test_a_folder_of_objects_is_no_shard(store: ObjectStore) -> None:
    with pytest.raises(IsADirectoryError, match=f"s3://{BUCKET}/train"):
        read(f"s3://{BUCKET}/train")


def test_a_missing_bucket_is_named(store: ObjectStore) -> None:
    with pytest.raises(FileNotFoundError, match=rf"^s3://no-bucket/a: no bucket 'no-bucket' at {store.url}$"):
        read("s3://no-bucket/a")
    with pytest.raises(NoShardsError, match=r"^data\.train: s3://no-bucket/a\*: no bucket 'no-bucket'"):
        expand_shards("s3://no-bucket/a*", key="data.train")


def test_a_store_that_is_not_there_is_named(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, and deaf
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)

        with pytest.raises(ConnectionError, match=rf"^s3://{BUCKET}/{KEY}: cannot reach {url}: .*connect"):
            read(f"s3://{BUCKET}/{KEY}")


def test_a_glob_matches_objects(store: ObjectStore) -> None:
    shards = expand_shards([f"s3://{BUCKET}/train/*[12].tfrecord", f"s3://{BUCKET}/test/test ?.tfrecord"], key="shards")

    names = ["test/test 0.tfrecord", "train/train0001.tfrecord", "train/train0002.tfrecord"]
    assert shards == [f"s3://{BUCKET}/{name}" for name in names]
    assert [read(shard) for shard in shards] == [b"x" * 1000] * 3


def test_a_glob_that_matches_nothing_is_named(store: ObjectStore) -> None:
    with pytest.raises(NoShardsError, match=r"data\.train: no file matches 's3://shards/none/\*'"):
        expand_shards(f"s3://{BUCKET}/none/*", key="data.train")


def test_sizes_of_many_objects_take_one_request_a_folder(store: ObjectStore, shard: bytes, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"12345")
    shards = [*expand_shards(f"s3://{BUCKET}/train/*.tfrecord", key="shards"), str(tmp_path / "local")]
    store.requests.clear()

    assert total_bytes(shards) == len(shard) + 2000 + 5
    assert len(store.requests) == 1


def test_the_number_of_videos_is_estimated_from_the_first_records(store: ObjectStore) -> None:
    assert estimate_num_videos([f"s3://{BUCKET}/{KEY}"]) == pytest.approx(len(PAYLOADS))


def test_an_endpoint_in_the_uri_goes_before_the_environment(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    query = f"?scheme=http&endpoint_override={store.url.removeprefix('http://')}"

    (shard,) = expand_shards(f"s3://{BUCKET}/train/train000[1].tfrecord{query}", key="shards")

    assert shard == f"s3://{BUCKET}/train/train0001.tfrecord{query}"
    assert read(shard) == b"x" * 1000


def test_the_endpoint_of_s3_alone_goes_before_that_of_all_services(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.url)

    assert read(f"s3://{BUCKET}/train/train0001.tfrecord") == b"x" * 1000


def test_a_bucket_is_connected_to_once(store: ObjectStore) -> None:
    assert from_uri(f"s3://{BUCKET}/a")[0] is from_uri(f"s3://{BUCKET}/b")[0]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://", "expected s3://BUCKET/KEY, found 's3://'"),
        ("s3://key:secret@bucket/a", "expected s3://BUCKET/KEY, found credentials in the URI$"),
        ("s3://bucket/a?endpoint=x", "endpoint: unknown; valid after the `[?]`: endpoint_override, region, scheme"),
    ],
)
def test_a_malformed_uri_is_refused(store: ObjectStore, uri: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_uri(uri)


def test_soft_labels_and_weights_are_read_from_the_store(store: ObjectStore, tmp_path: Path) -> None:
    scores, ids = np.array([[0.75, 0.5], [0.25, 0.125]], np.float16), np.array([[2, 0], [1, 2]], np.uint16)
    write_labels(tmp_path / "a.arrow", [to_label_table(np.arange(2, dtype=np.int32), ["x", "y"], scores, ids)])
    entry = LabelledShard(name="a.tfrecord", file="a.arrow", bytes=1, num_records=2, num_videos=2)
    SoftLabelIndex(teacher="t", format="top", num_classes=3, num_entries=2, shards=[entry]).save(tmp_path)
    save_weights(tmp_path / "w.parquet", ["x", "y"], np.array([0.5, 1.5]))
    for name in ("a.arrow", "index.json", "w.parquet"):
        store.put(f"soft/{name}", (tmp_path / name).read_bytes())
    video = PackedVideos.from_rows(
        [VideoRow("y", np.zeros((1, 1), np.float32), np.empty(0, np.int32))],
        FeatureSpec({"mean_rgb": 1}, num_classes=3),
        first_record=1,
    )

    labels = SoftLabels(f"s3://{BUCKET}/soft", [f"s3://{BUCKET}/a.tfrecord"], 3)

    assert labels.lookup(video).tolist() == [[0, 0.25, 0.125]]
    assert VideoWeights.load(f"s3://{BUCKET}/soft/w.parquet").lookup(["y"]).tolist() == [1.5]
    with pytest.raises(FileNotFoundError, match=rf"s3://{BUCKET}/none: no index.json"):
        SoftLabels(f"s3://{BUCKET}/none", [], 3)

"""Downloads from a mirror with every fault that a server or a line can have."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import pydantic
import pytest

from tests.support.mirror import PARTITION, Mirror
from yt8m_ray.data.download.config import DownloadConfig, select
from yt8m_ray.data.download.published_shards import LOCK_FILE, DownloadError, download, parse_plan
from yt8m_ray.data.download.transfer import TransferError
from yt8m_ray.errors import NoShardsError

A, B, C = "trainaa.tfrecord", "trainab.tfrecord", "trainac.tfrecord"
FILES = {name: random.Random(name).randbytes(size) for name, size in ((A, 300_000), (B, 70_000), (C, 1))}


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with Mirror(dict(FILES)) as mirror:
        yield mirror


def config(mirror: Mirror, **changes: Any) -> DownloadConfig:
    quick = {"partition": PARTITION, "base_url": mirror.url, "num_attempts": 3, "backoff_s": 0.0, "timeout_s": 0.3}
    return DownloadConfig(**{**quick, **changes})


def here(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_every_file_of_the_plan_is_fetched(mirror: Mirror, tmp_path: Path) -> None:
    report = download(config(mirror), tmp_path / "shards")

    assert here(tmp_path / "shards") == FILES
    assert (report.num_files, report.num_fetched, report.num_bytes) == (3, 3, 370_001)


@pytest.mark.parametrize(
    ("base_url", "plan", "file"),
    [
        (
            "http://{host}",
            "http://data.yt8m.org/2/download_plans/frame_train.json",
            f"http://eu.data.yt8m.org/2/frame/train/{A}",
        ),
        (
            "https://store.example/{host}/",
            "https://store.example/data.yt8m.org/2/download_plans/frame_train.json",
            f"https://store.example/eu.data.yt8m.org/2/frame/train/{A}",
        ),
        (
            "http://127.0.0.1:9",
            "http://127.0.0.1:9/2/download_plans/frame_train.json",
            f"http://127.0.0.1:9/2/frame/train/{A}",
        ),
    ],
)
def test_the_addresses_are_those_of_the_published_layout(base_url: str, plan: str, file: str) -> None:
    config = DownloadConfig(partition=PARTITION, mirror="eu", base_url=base_url)

    assert (config.plan_url, config.file_url(A)) == (plan, file)


def test_a_part_holds_the_names_whose_own_md5_says_so() -> None:
    # By `printf NAME | md5sum` and `bc`, the md5 of the three names are 2, 0 and 0 modulo 3.
    parts = [select(FILES, f"{index},3") for index in (1, 2, 3)]

    assert parts == [[B, C], [], [A]]


@pytest.mark.parametrize(
    "faults",
    [
        ["503", "503"],
        ["429"],
        ["reset"],
        ["cut"],
        ["cut, reset"],
        ["cut", "no range"],
        ["cut", "wrong range"],
        ["wrong"],
        ["short"],
        ["silent"],
        ["cut", "cut", "503"],
    ],
    ids=", ".join,
)
def test_a_passing_fault_leaves_the_right_bytes(mirror: Mirror, tmp_path: Path, faults: list[str]) -> None:
    mirror.faults[A] = faults

    download(config(mirror), tmp_path)

    assert here(tmp_path) == FILES


def test_a_cut_file_continues_where_it_was_cut(mirror: Mirror, tmp_path: Path) -> None:
    mirror.faults[A] = ["cut"]

    report = download(config(mirror), tmp_path)

    assert mirror.requested(A) == [None, "bytes=150000-"]
    assert report.num_bytes == 370_001


def test_a_server_without_ranges_is_asked_for_the_whole_file_again(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / f"{A}.part").write_bytes(FILES[A][:1000])
    mirror.faults[A] = ["no range"]

    download(config(mirror), tmp_path)

    assert mirror.requested(A) == ["bytes=1000-"]
    assert here(tmp_path) == FILES


def test_a_server_without_ranges_that_always_cuts_is_given_up(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files[A] = random.Random(0).randbytes(5_000_000)
    mirror.faults[A], mirror.is_lasting = ["cut, no range"], True

    with pytest.raises(DownloadError, match="1 of 3 files failed"):
        download(config(mirror), tmp_path)

    assert len(mirror.requested(A)) <= 6


def test_a_bad_line_may_cut_a_large_file_more_often_than_there_are_attempts(tmp_path: Path) -> None:
    data = random.Random(0).randbytes(40_000_000)
    with Mirror({A: data}) as mirror:
        mirror.faults[A] = ["cut"] * 5

        download(config(mirror, num_attempts=2), tmp_path)

    assert here(tmp_path) == {A: data}


@pytest.mark.parametrize(
    "part",
    [FILES[A], FILES[A] + b"more", b"x" * len(FILES[A]), b"x" * 100, b""],
    ids=["whole", "longer", "wrong", "bad", "empty"],
)
def test_any_part_ends_as_the_right_file(mirror: Mirror, tmp_path: Path, part: bytes) -> None:
    (tmp_path / f"{A}.part").write_bytes(part)

    download(config(mirror), tmp_path)

    assert here(tmp_path) == FILES


def test_a_part_that_is_whole_needs_no_request(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / f"{A}.part").write_bytes(FILES[A])

    download(config(mirror), tmp_path)

    assert mirror.requested(A) == []


def test_bytes_that_stay_wrong_fail_one_file_and_no_other(mirror: Mirror, tmp_path: Path) -> None:
    mirror.faults[A], mirror.is_lasting = ["wrong"], True
    right = hashlib.md5(FILES[A]).hexdigest()
    wrong = hashlib.md5(bytes([FILES[A][0] ^ 1]) + FILES[A][1:]).hexdigest()

    with pytest.raises(DownloadError) as caught:
        download(config(mirror), tmp_path)

    assert str(caught.value) == (
        f"{tmp_path}: 1 of 3 files failed:\n  {mirror.url}/{PARTITION}/{A}: "
        f"expected md5 {right}, found {wrong} (3 attempts)"
    )
    assert here(tmp_path) == {B: FILES[B], C: FILES[C]}


@pytest.mark.parametrize(
    ("fault", "message", "num_requests"),
    [("503", "expected status 200 or 206, found 503", 3), ("404", "found 404 Not Found", 1)],
)
def test_a_status_that_stays_is_named(
    mirror: Mirror, tmp_path: Path, fault: str, message: str, num_requests: int
) -> None:
    mirror.faults[A], mirror.is_lasting = [fault], True

    with pytest.raises(DownloadError, match=message):
        download(config(mirror), tmp_path)

    assert len(mirror.requested(A)) == num_requests


def test_files_that_are_there_are_not_fetched_again(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / A).write_bytes(FILES[A])

    report = download(config(mirror), tmp_path)

    assert mirror.requested(A) == []
    assert (report.num_present, report.num_fetched) == (1, 2)


def test_files_that_have_not_changed_are_not_read_again(mirror: Mirror, tmp_path: Path) -> None:
    download(config(mirror), tmp_path)
    spoil_unseen(tmp_path / A)

    report = download(config(mirror), tmp_path)

    assert report.num_present == 3


def test_verify_reads_all_files_again(mirror: Mirror, tmp_path: Path) -> None:
    download(config(mirror), tmp_path)
    spoil_unseen(tmp_path / A)

    download(config(mirror, verify=True), tmp_path)

    assert here(tmp_path) == FILES


def spoil_unseen(path: Path) -> None:
    """Changes a file's bytes, not its size and not its time, as a bad disk does."""
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_file_that_was_changed_is_replaced(mirror: Mirror, tmp_path: Path) -> None:
    download(config(mirror), tmp_path)
    (tmp_path / A).write_bytes(b"changed")

    download(config(mirror), tmp_path)

    assert here(tmp_path) == FILES


def test_a_missing_plan_names_the_address_and_how_partitions_are_named(mirror: Mirror, tmp_path: Path) -> None:
    mirror.plan = None

    with pytest.raises(NoShardsError, match=r"/2/download_plans/frame_train\.json: .*404.* like 2/frame/train"):
        download(config(mirror), tmp_path)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (b"<html>", "not a JSON document: .*found b'<html>'"),
        (b"\xff\xfe\x00", "not a JSON document"),
        (b'{"files": {"a": "%s", "a": "%s"}}', "the key 'a' is there twice"),
        (b"[]", "expected .*files"),
        (b'{"files": {}}', "expected .*files"),
        (b'{"files": {"../x": "%s"}}', r"found '\.\./x'"),
        (b'{"files": {"a/b": "%s"}}', "found 'a/b'"),
        (b'{"files": {"..": "%s"}}', r"found '\.\.'"),
        (b'{"files": {".download.lock": "%s"}}', r"found '\.download\.lock'"),
        (b'{"files": {"a.part": "%s"}}', r"found 'a\.part'"),
        (b'{"files": {"a": "zz"}}', "a: expected an md5, found 'zz'"),
        (b'{"files": {"a": 3}}', "a: expected an md5, found 3"),
    ],
)
def test_a_malformed_plan_is_refused(plan: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^URL: .*{message}"):
        parse_plan(plan.replace(b"%s", b"0" * 32), url="URL")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("partition", value)
            for value in ("", "train", "2/frame", "2/frame/train/", "/2/frame", "2/../x", "2/a b/c")
        ),
        *(("shard", value) for value in ("", "1", "0,5", "6,5", "1,0", "a,b", "1,2,3", "-1,5")),
        *(("base_url", value) for value in ("", "ftp://x", "x", "http://")),
        ("mirror", "mars"),
    ],
)
def test_a_malformed_setting_is_refused(key: str, value: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=key):
        DownloadConfig(**{"partition": PARTITION, key: value})


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, and deaf
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        settings = DownloadConfig(partition=PARTITION, base_url=url, num_attempts=2, backoff_s=0)

        with pytest.raises(TransferError, match=rf"^{url}/2/download_plans/.*: Connection refused \(2 attempts\)"):
            download(settings, tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_ends_the_download_with_advice(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / f"{A}.part").symlink_to("/dev/full")

    with pytest.raises(OSError, match=rf"No space left on device; make room .*{A}\.part"):
        download(config(mirror), tmp_path)


def test_two_downloads_do_not_share_a_folder(mirror: Mirror, tmp_path: Path) -> None:
    with filelock.FileLock(tmp_path / LOCK_FILE), pytest.raises(OSError, match="another download works in this folder"):
        download(config(mirror), tmp_path)


def test_a_part_of_the_partition_without_files_is_no_fault(mirror: Mirror, tmp_path: Path) -> None:
    index = next(index for index in range(1, 100) if not select(FILES, f"{index},100"))

    assert download(config(mirror, shard=f"{index},100"), tmp_path).num_files == 0


def test_a_state_that_was_cut_in_the_middle_of_a_line_is_read_as_far_as_it_goes(mirror: Mirror, tmp_path: Path) -> None:
    download(config(mirror), tmp_path)
    state = tmp_path / ".download_state.jsonl"
    state.write_text(state.read_text() + json.dumps({"name": A})[:-3])

    assert download(config(mirror), tmp_path).num_present == 3

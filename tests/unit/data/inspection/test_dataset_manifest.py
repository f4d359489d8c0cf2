"""The manifest of a data set: what the file says, what is checked before training and after an epoch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from yt8m_ray.data.inspection.dataset_manifest import (
    Manifest,
    ShardEntry,
    check_num_records,
    check_shards,
    differences,
    load_manifest,
)


def entry(path: str | Path, *, size: int = 3, **changes: Any) -> ShardEntry:
    counts = {"bytes": size, "num_records": 2, "num_videos": 1, "num_frames": 7, "crc32c": "0123abcd"}
    return ShardEntry.model_validate({"path": str(path), **counts, **changes})


def saved(folder: Path, *names: str) -> Manifest:
    """Returns a manifest in a folder of shards of three bytes each."""
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"abc")
    manifest = Manifest(folder / "manifest.json", [entry(folder / name) for name in names])
    manifest.save()
    return manifest


def test_a_manifest_survives_save_and_load(tmp_path: Path) -> None:
    manifest = saved(tmp_path, "b", "sub/a")

    assert load_manifest(tmp_path / "manifest.json").entries == manifest.entries


def test_the_file_is_versioned_sorted_and_has_totals(tmp_path: Path) -> None:
    saved(tmp_path, "b", "a")

    document = json.loads((tmp_path / "manifest.json").read_text())

    assert document["version"] == 1
    assert [shard["path"] for shard in document["shards"]] == ["a", "b"]
    assert document["totals"] == {"num_shards": 2, "bytes": 6, "num_records": 4, "num_videos": 2, "num_frames": 14}


def test_the_bytes_depend_on_the_shards_alone(tmp_path: Path) -> None:
    first = saved(tmp_path, "a", "b", "c")
    text = (tmp_path / "manifest.json").read_bytes()

    Manifest(first.path, reversed(first.entries.values())).save()

    assert (tmp_path / "manifest.json").read_bytes() == text
    assert [path.name for path in tmp_path.iterdir() if "manifest" in path.name] == ["manifest.json"]


def test_paths_below_the_manifest_are_relative_and_others_as_given(tmp_path: Path) -> None:
    paths = [str(tmp_path / "data" / "sub" / "a"), str(tmp_path / "database" / "b"), "s3://bucket/c"]
    (tmp_path / "data").mkdir()
    Manifest(tmp_path / "data" / "m.json", map(entry, paths)).save()

    document = json.loads((tmp_path / "data" / "m.json").read_text())

    assert sorted(shard["path"] for shard in document["shards"]) == sorted(["sub/a", paths[1], paths[2]])


def test_a_folder_can_be_moved_with_its_manifest(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    saved(tmp_path / "old", "a")
    os.rename(tmp_path / "old", tmp_path / "new")

    manifest = load_manifest(tmp_path / "new" / "manifest.json")

    check_shards(manifest, [str(tmp_path / "new" / "a")])


def test_a_manifest_is_found_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, "a")
    monkeypatch.chdir(tmp_path)

    assert list(load_manifest("manifest.json").entries) == [str(tmp_path / "a")]


def test_videos_and_records_are_those_of_the_shards_asked_for(tmp_path: Path) -> None:
    shards = [entry("/a", num_videos=3, num_records=4), entry("/b", num_videos=5, num_records=6), entry("/c")]
    manifest = Manifest(tmp_path / "m.json", shards)

    assert manifest.num_videos_of(["/b", "/a"]) == 8
    assert manifest.num_records_of(["/b", "/a"]) == [6, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: "{", "m.json: not a JSON document: Expecting property name"),
        (lambda _: "[]", "m.json: not a manifest of version 1: "),
        (lambda text: text.replace('"version": 1', '"version": 2'), "version 1: version: Input should be 1"),
        (lambda text: text.replace('"num_records": 2,', "", 1), r"shards\.0\.num_records: Field required"),
        (lambda text: text.replace("0123abcd", "0123", 1), r"shards\.0\.crc32c: String should match pattern"),
        (lambda text: text.replace('"bytes": 3', '"bytes": 4', 1), r"totals\.bytes: expected 7, .* found 6"),
        (lambda text: text.replace('"path": "b"', '"path": "./a"'), "2 shards, 1 different paths"),
    ],
)
def test_a_file_that_is_no_manifest_says_why(tmp_path: Path, change: Any, message: str) -> None:
    text = Path(saved(tmp_path, "a", "b").path).read_text()
    (tmp_path / "m.json").write_text(change(text))

    with pytest.raises(ValueError, match=message):
        load_manifest(tmp_path / "m.json")


def test_shards_as_they_were_are_sound(tmp_path: Path) -> None:
    manifest = saved(tmp_path, "train0", "train1", "validate0")

    check_shards(manifest, [str(tmp_path / "train0"), str(tmp_path / "train1")])


def test_a_shard_that_the_manifest_lacks_is_named(tmp_path: Path) -> None:
    manifest = saved(tmp_path, "a")
    (tmp_path / "b").touch()

    with pytest.raises(
        ValueError, match=rf"manifest\.json: {tmp_path}/b: not in the manifest, which has 1 other shards$"
    ):
        check_shards(manifest, [str(tmp_path / "a"), str(tmp_path / "b")])


def test_a_shard_that_is_lost_is_named_though_no_glob_gives_it(tmp_path: Path) -> None:
    manifest = saved(tmp_path, "a", "b")
    (tmp_path / "b").unlink()

    with pytest.raises(ValueError, match=f"{tmp_path}/b: expected 3 bytes, found no such file$"):
        check_shards(manifest, [str(tmp_path / "a")])


def test_shards_of_a_folder_that_is_gone_are_lost(tmp_path: Path) -> None:
    manifest = saved(tmp_path, "sub/a")
    os.rename(tmp_path / "sub", tmp_path / "other")

    with pytest.raises(ValueError, match=f"{tmp_path}/sub/a: expected 3 bytes, found no such file"):
        check_shards(manifest, [])


def test_a_shard_of_another_size_is_named_with_both(tmp_path: Path) -> None:
    manifest = saved(tmp_path, "a", "b")
    (tmp_path / "b").write_bytes(b"ab")

    with pytest.raises(ValueError, match=f"{tmp_path}/b: expected 3 bytes, found 2$"):
        check_shards(manifest, [str(tmp_path / "a"), str(tmp_path / "b")])


def test_many_faults_make_a_short_message(tmp_path: Path) -> None:
    manifest = saved(tmp_path, *(f"{number:02d}" for number in range(20)))
    for number in range(20):
        (tmp_path / f"{number:02d}").unlink()

    with pytest.raises(ValueError, match=r"/00: .*; .*/01: .*; .*/02: .*; and 17 more$"):
        check_shards(manifest, [])


def test_a_link_to_a_shard_has_the_shards_size(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"abc")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a b%20").symlink_to(tmp_path / "elsewhere")
    manifest = Manifest(tmp_path / "m.json", [entry(tmp_path / "data" / "a b%20")])

    check_shards(manifest, [])


def test_every_difference_is_one_line(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "m.json", [entry("/a"), entry("/b"), entry("/c")])
    found = [entry("/a"), entry("/c", size=4, crc32c="ffffffff", num_videos=2), entry("/d")]

    assert [(item.shard, item.first) for item in differences(manifest, found)] == [
        ("/b", f"/b: in the manifest {tmp_path}/m.json, but not among the shards read"),
        ("/c", "/c: bytes: expected 3, found 4"),
        ("/c", "/c: num_videos: expected 1, found 2"),
        ("/c", "/c: crc32c: expected 0123abcd, found ffffffff"),
        ("/d", f"/d: not in the manifest {tmp_path}/m.json"),
    ]


@pytest.mark.parametrize(("found", "number"), [({0: 4, 1: 5}, "5"), ({0: 4}, "none")])
def test_records_that_are_not_as_expected_name_the_shard(found: dict[int, int], number: str) -> None:
    with pytest.raises(ValueError, match=rf"^/b: expected 6 records \(manifest\), found {number}$"):
        check_num_records(["/a", "/b"], [4, 6], found)


def test_records_that_are_as_expected_pass() -> None:
    check_num_records(["/a", "/b"], [4, 6], {0: 4, 1: 6})

"""Which local files a pattern names."""

from __future__ import annotations

from pathlib import Path

import pytest

from yt8m_ray.data.storage.filesystem import match_paths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("[2019] set/train[1].tfrecord", "[2019] set/train1.tfrecord", "2/train2.tfrecord", "2/a?/x.tfrecord"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("[2019] set/train[1].tfrecord", ["[2019] set/train[1].tfrecord"]),
        ("[2019] set/*.tfrecord", ["[2019] set/train1.tfrecord", "[2019] set/train[1].tfrecord"]),
        ("[2019] set/train[0-9].tfrecord", ["[2019] set/train1.tfrecord"]),
        ("[2019]/train*", ["2/train2.tfrecord"]),
        ("2/a?/*", ["2/a?/x.tfrecord"]),
        ("**/x.tfrecord", ["2/a?/x.tfrecord"]),
        ("none[1]/*", []),
        ("2/none.tfrecord", []),
    ],
)
@pytest.mark.parametrize("is_absolute", [True, False])
def test_what_a_path_names_literally_is_no_pattern(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, found: list[str], is_absolute: bool
) -> None:
    monkeypatch.chdir(folder)
    prefix = f"{folder}/" if is_absolute else ""

    assert sorted(match_paths(prefix + pattern)) == [prefix + path for path in found]


def test_a_pattern_in_a_folder_with_brackets_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "[2019] set")

    assert match_paths(str(Path("train*[1].tfrecord").absolute())) == [str(folder / "[2019] set/train1.tfrecord")]

"""Inspecting a data set on Ray, and runs that their manifest stops; `test_train` has one that agrees with its own."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.conftest import FEATURE_DIM, NUM_CLASSES, Shards
from yt8m_ray.cli.main import call
from yt8m_ray.cluster import map_tasks
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.errors import CorruptRecordError
from yt8m_ray.data.format.example import encode_example, encode_sequence_example
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.data.inspection.dataset_manifest import Manifest, load_manifest
from yt8m_ray.errors import ConfigError, NoShardsError
from yt8m_ray.training.driver.trainer import fit


@dataclass(frozen=True)
class Outcome:
    """What the verb left: its exit code, its document and what it said on stderr."""

    code: int
    document: dict[str, Any]
    stderr: str


@pytest.fixture
def run(ray_cluster: None, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Any:
    def run_verb(*arguments: object) -> Outcome:
        code = 0
        with caplog.at_level("INFO"):
            try:
                call(["inspect", *map(str, arguments)])
            except SystemExit as error:
                code = int(error.code or 0)
        return Outcome(code, json.loads(capsys.readouterr().out), caplog.text)

    return run_verb


def video(video_id: str, *labels: int) -> bytes:
    return encode_example(
        {"id": [video_id.encode()], "labels": np.array(labels, np.int64), "mean_rgb": np.ones(4, "f4")}
    )


def clip(video_id: str, num_frames: int) -> bytes:
    frames = {"rgb": np.ones((num_frames, 8), np.uint8), "audio": np.ones((num_frames, 4), np.uint8)}
    return encode_sequence_example({"id": [video_id.encode()], "labels": np.array([num_frames])}, frames)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a folder of three sound shards."""
    for number in range(3):
        write_records(
            str(tmp_path / f"train{number}.tfrecord"), [video(f"v{number}{index}", 1, 2) for index in range(9)]
        )
    return tmp_path


def test_a_sound_data_set_is_summed_up(run: Any, folder: Path) -> None:
    outcome = run(folder / "train*.tfrecord", "--num-workers", 2)

    assert outcome.code == 0
    assert {name: outcome.document[name] for name in ("num_shards", "num_videos", "num_frames", "failures")} == {
        "num_shards": 3,
        "num_videos": 27,
        "num_frames": 0,
        "failures": [],
    }
    assert "3/3 shards, 27 videos, " in outcome.stderr
    assert "0 of 3 shards bad" in outcome.stderr


def test_frame_level_is_seen_and_drawn(run: Any, tmp_path: Path) -> None:
    write_records(str(tmp_path / "a.tfrecord"), [clip("a", 3), clip("b", 7)])

    outcome = run(tmp_path / "a.tfrecord", "--output", tmp_path / "output")

    assert (outcome.document["level"], outcome.document["features"]) == ("frame", {"rgb": 8, "audio": 4})
    assert outcome.document["frames_per_video"] == {"min": 3, "mean": 5.0, "max": 7}
    assert sorted(os.listdir(tmp_path / "output")) == [
        "class_histogram.csv",
        "class_histogram.png",
        "frames_histogram.png",
    ]


def test_everything_that_is_wrong_is_found_in_one_pass(run: Any, folder: Path) -> None:
    damaged = bytearray((folder / "train1.tfrecord").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (folder / "train1.tfrecord").write_bytes(damaged)
    (folder / "train2.tfrecord").write_bytes(damaged[: len(damaged) // 3 + 5])
    (folder / "train3.tfrecord").mkdir()
    write_records(str(folder / "train4.tfrecord"), [video("v00", 1), video("w", 9999)])

    outcome = run(folder / "train*.tfrecord")

    assert outcome.code == 1
    assert [
        (Path(item["shard"]).stem, item["num_rejected"], item["causes"]) for item in outcome.document["failures"]
    ] == [
        ("train1", 1, {"crc": 1}),
        ("train2", 1, {"length": 1}),
        ("train3", 0, {"unreadable": 1}),
        ("train4", 1, {"label": 1}),
    ]
    assert outcome.document["rejected"] == {"crc": 1, "length": 1, "parse": 0, "label": 1, "value": 0}
    assert [item["id"] for item in outcome.document["duplicates"]["first"]][:1] == ["v00"]
    assert outcome.document["num_videos"] == 9 + 8 + 3 + 1


def test_features_that_are_given_are_what_every_record_must_have(run: Any, folder: Path) -> None:
    outcome = run(folder / "train0.tfrecord", "--features", "mean_rgb=4,mean_audio=2")

    assert outcome.document["rejected"]["parse"] == 9
    assert "mean_audio: no such feature" in outcome.document["failures"][0]["first"]


def test_a_manifest_that_was_written_matches_and_later_changes_do_not(run: Any, folder: Path) -> None:
    manifest = folder / "manifest.json"
    assert run(folder / "*.tfrecord", "--write-manifest", manifest).code == 0
    assert run(folder / "*.tfrecord", "--manifest", manifest).code == 0
    write_records(str(folder / "train1.tfrecord"), [video(f"w{index}", 1, 2) for index in range(10)])
    (folder / "train2.tfrecord").rename(folder / "train3.tfrecord")

    outcome = run(folder / "*.tfrecord", "--manifest", manifest)

    assert outcome.code == 1
    messages = [item["first"].removeprefix(f"{folder}/") for item in outcome.document["failures"]]
    assert [message.split(", found")[0] for message in messages] == [
        f"train1.tfrecord: bytes: expected {load_manifest(manifest).entries[f'{folder}/train1.tfrecord'].bytes}",
        "train1.tfrecord: num_records: expected 9",
        "train1.tfrecord: num_videos: expected 9",
        messages[3].split(", found")[0],
        f"train2.tfrecord: in the manifest {manifest}, but not among the shards read",
        f"train3.tfrecord: not in the manifest {manifest}",
    ]
    assert messages[3].startswith("train1.tfrecord: crc32c: expected ")


def test_a_manifest_is_not_written_where_a_shard_cannot_be_read(run: Any, folder: Path) -> None:
    (folder / "train9.tfrecord").mkdir()

    outcome = run(folder / "*.tfrecord", "--write-manifest", folder / "m.json")

    assert not (folder / "m.json").exists()
    assert "m.json: not written, a shard could not be read" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/*.tfrecord"], r"shards: no file matches 'no/\*\.tfrecord'"),
        (["."], r"shards: \. is a folder; expected files"),
        (["*.tfrecord", "--num-classes", "0"], "command line: num_classes: .*greater than or equal to 1, found '0'"),
        (
            ["*.tfrecord", "--features", "rgb"],
            r"command line: features: .*expected NAME=SIZE,\.\.\., such as .*, found 'rgb'",
        ),
        (["*.tfrecord", "--features", "rgb=8,mean_rgb=8"], "mix video level"),
        (["*.tfrecord", "--num-workers", "0"], "command line: num_workers: .*greater than 0, found '0'"),
        (["*.tfrecord", "--manifest", "no.json"], "command line: manifest: .*No such file"),
        (
            ["*.tfrecord", "--manifest", "train0.tfrecord"],
            "command line: manifest: train0.tfrecord: not a JSON document",
        ),
        (["*.tfrecord", "--write-manifest", "no/m.json"], "command line: write_manifest: .*a folder that exists"),
        (["*.tfrecord", "--output", "train0.tfrecord"], "command line: output: .*expected a folder"),
    ],
)
def test_a_bad_argument_is_refused_before_anything_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # nobody is there
    monkeypatch.chdir(folder)

    with pytest.raises((ConfigError, NoShardsError), match=message):
        call(["inspect", *arguments])


def _length(path: str) -> int:
    if path == "bad":
        raise CorruptRecordError(path, 3, 4, "reason", "crc")
    return len(path)


def test_every_path_is_mapped_once(ray_cluster: None) -> None:
    paths = ["a" * number for number in range(1, 12)]

    assert sorted(map_tasks(_length, paths, num_workers=3)) == [(index, index + 1) for index in range(11)]


def test_an_error_of_a_path_arrives_as_it_was_raised(ray_cluster: None) -> None:
    with pytest.raises(CorruptRecordError, match="bad: record 3 at byte 4: reason"):
        list(map_tasks(_length, ["good", "bad"]))


def config_of(shards: Shards, output: Path, manifest: Path) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "output": str(output),
            "run": {"name": "run"},
            "data": {
                "train": shards.train,
                "validation": shards.validation,
                "manifest": str(manifest),
                "features": {"mean_rgb": FEATURE_DIM},
                "num_classes": NUM_CLASSES,
            },
            "model": {"name": "logistic"},
            "train": {"batch_size": 128, "num_epochs": 1, "log_every_steps": 1},
        }
    )


def changed(manifest: Path, folder: Path, index: int, **changes: int) -> Path:
    """Returns the manifest with one entry changed, in another folder."""
    entries = list(load_manifest(manifest).entries.values())
    entries[index] = entries[index].model_copy(update=changes)
    Manifest(folder / "manifest.json", entries).save()
    return folder / "manifest.json"


def test_a_run_with_a_shard_of_another_size_does_not_begin(
    ray_cluster: None, shards: Shards, tmp_path: Path, manifest: Path
) -> None:
    with pytest.raises(ValueError, match=r"manifest\.json: .*train0000\.tfrecord: expected 1 bytes, found \d+"):
        fit(config_of(shards, tmp_path, changed(manifest, tmp_path, 0, bytes=1)))

    assert not (tmp_path / "run").exists()


def test_a_run_with_a_shard_that_no_manifest_knows_does_not_begin(
    ray_cluster: None, shards: Shards, tmp_path: Path, manifest: Path
) -> None:
    entries = load_manifest(manifest).entries.values()
    path = tmp_path / "manifest.json"
    Manifest(path, [entry for entry in entries if "/train" in entry.path]).save()

    with pytest.raises(ValueError, match=r"validation0000\.tfrecord: not in the manifest, which has 10 other shards"):
        fit(config_of(shards, tmp_path, path))


def test_a_run_without_its_manifest_names_the_key(ray_cluster: None, shards: Shards, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.manifest: .*No such file or directory: '.*/gone\.json'"):
        fit(config_of(shards, tmp_path, tmp_path / "gone.json"))


@pytest.mark.soak
def test_an_epoch_that_counts_other_records_fails(
    ray_cluster: None, shards: Shards, tmp_path: Path, manifest: Path
) -> None:
    with pytest.raises(ValueError, match=r"train0003\.tfrecord: expected 1 records \(manifest\), found 70"):
        fit(config_of(shards, tmp_path, changed(manifest, tmp_path, 3, num_records=1)))

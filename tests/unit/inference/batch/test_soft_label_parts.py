from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from yt8m_ray.data.labels.soft_label_files import SoftLabelIndex, SoftLabelJob, to_label_table
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.batch.resumable_output import SoftLabelParts

JOB = SoftLabelJob(teacher="t", format="top", num_classes=9, num_entries=2)
SHARDS = ["/data/a.tfrecord", "/data/b.tfrecord"]


def rows(first: int, count: int) -> pa.Table:
    records = np.arange(first, first + count, dtype=np.int32)
    values = np.ones((count, 2))
    return to_label_table(records, [str(r) for r in records], values.astype(np.float16), values.astype(np.uint16))


def finish(parts: SoftLabelParts, shard: int, count: int = 3) -> None:
    parts.write(shard, rows(0, count), np.arange(count))
    parts.finish(shard, count + 1, Counter())


def test_finished_shards_are_kept_and_those_begun_are_made_again(tmp_path: Path) -> None:
    before = SoftLabelParts(tmp_path / "soft", JOB, SHARDS)
    finish(before, 0)
    before.write(1, rows(0, 2), np.arange(2))

    after = SoftLabelParts(tmp_path / "soft", JOB, SHARDS)

    assert after.done == [0]
    finish(after, 1, count=5)
    index = after.complete()
    assert [(entry.name, entry.num_records, entry.num_videos) for entry in index.shards] == [
        ("a.tfrecord", 4, 3),
        ("b.tfrecord", 6, 5),
    ]
    assert SoftLabelIndex.load(str(tmp_path / "soft")) == index
    assert sorted(path.name for path in (tmp_path / "soft").iterdir()) == ["a.arrow", "b.arrow", "index.json"]


def test_a_list_that_a_kill_cut_short_loses_its_last_line_alone(tmp_path: Path) -> None:
    before = SoftLabelParts(tmp_path, JOB, SHARDS)
    for shard in (0, 1):
        finish(before, shard)
    done = tmp_path / "done.jsonl"
    done.write_text(done.read_text()[:-20])

    after = SoftLabelParts(tmp_path, JOB, SHARDS)
    assert after.done == [0]
    finish(after, 1)
    assert SoftLabelParts(tmp_path, JOB, SHARDS).done == [0, 1]


def test_a_finished_file_that_is_gone_or_cut_short_is_made_again(tmp_path: Path) -> None:
    parts = SoftLabelParts(tmp_path, JOB, SHARDS)
    for shard in (0, 1):
        finish(parts, shard)
    parts.complete()
    (tmp_path / "a.arrow").unlink()
    (tmp_path / "b.arrow").write_bytes(b"")
    assert SoftLabelParts(tmp_path, JOB, SHARDS).done == []


def test_a_finished_set_takes_more_shards(tmp_path: Path) -> None:
    parts = SoftLabelParts(tmp_path, JOB, SHARDS[:1])
    finish(parts, 0)
    parts.complete()

    more = SoftLabelParts(tmp_path, JOB, [SHARDS[1]])
    assert more.done == []
    finish(more, 0)
    assert [entry.name for entry in more.complete().shards] == ["a.tfrecord", "b.tfrecord"]


@pytest.mark.parametrize("is_finished", [False, True])
@pytest.mark.parametrize("change", [{"teacher": "u"}, {"num_entries": 3}, {"format": "dense"}])
def test_labels_of_another_teacher_or_form_are_not_mixed(
    tmp_path: Path, change: dict[str, object], is_finished: bool
) -> None:
    parts = SoftLabelParts(tmp_path, JOB, SHARDS)
    finish(parts, 0)
    if is_finished:
        parts.complete()
    other = SoftLabelJob.model_validate({**JOB.model_dump(), **change})
    with pytest.raises(ConfigError, match=r"^output: .* holds labels of \{.*'teacher': 't'"):
        SoftLabelParts(tmp_path, other, SHARDS)


def test_shards_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/data/a.tfrecord and /more/a.tfrecord have one name"):
        SoftLabelParts(tmp_path, JOB, [*SHARDS, "/more/a.tfrecord"])


def test_the_folder_of_the_shards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match=r"a.tfrecord, which is to be labelled"):
        SoftLabelParts(tmp_path, JOB, [str(tmp_path / "link" / "a.tfrecord")])


def test_an_abandoned_set_leaves_nothing_unfinished(tmp_path: Path) -> None:
    records = SoftLabelJob.model_validate({**JOB.model_dump(), "format": "tfrecord"})
    parts = SoftLabelParts(tmp_path / "soft", records, SHARDS)
    parts.write(0, [b"record"], np.arange(1))
    parts.abandon()
    assert not (tmp_path / "soft").exists()


def test_an_abandoned_set_keeps_what_is_finished_and_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    SoftLabelParts(tmp_path, JOB, SHARDS).abandon()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    parts = SoftLabelParts(tmp_path, JOB, SHARDS)
    finish(parts, 0)
    parts.write(1, rows(0, 1), np.arange(1))
    parts.abandon()
    assert SoftLabelParts(tmp_path, JOB, SHARDS).done == [0]


def test_framed_records_are_a_file_by_the_name_of_the_shard(tmp_path: Path) -> None:
    records = SoftLabelJob.model_validate({**JOB.model_dump(), "format": "tfrecord"})
    parts = SoftLabelParts(tmp_path, records, SHARDS)
    for part in ([b"one", b"two"], [], [b"three"]):
        parts.write(1, part, np.arange(len(part)))
    parts.finish(1, 3, Counter())
    assert (tmp_path / "b.tfrecord").read_bytes() == b"onetwothree"
    index = json.loads((tmp_path / "done.jsonl").read_text())
    assert (index["name"], index["bytes"], index["num_videos"]) == ("b.tfrecord", 11, 3)

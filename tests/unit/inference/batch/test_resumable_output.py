from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.batch.resumable_output import PredictionParts
from yt8m_ray.topk import TopK

SHARDS = ["a.tfrecord", "b.tfrecord", "c.tfrecord"]
BEST = TopK(class_ids=torch.tensor([[7]]), scores=torch.tensor([[0.5]]))


def parts_of(folder: Path, **changes: object) -> PredictionParts:
    job = {"model_version": "v1", "shards": SHARDS, "top_k": 1, **changes}
    return PredictionParts(str(folder / "p.csv"), **job)  # type: ignore[arg-type]


def predict(parts: PredictionParts, *shards: int) -> None:
    for shard in shards:
        parts.write(shard, ([f"video{shard}"], BEST), np.arange(1))
        parts.finish(shard, 1, Counter({"crc": shard}))


def test_parts_become_a_file_in_the_order_of_the_shards(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    predict(parts, 2, 0)
    predict(again := parts_of(tmp_path), 1)

    again.join()

    rows = [f"video{shard},7 0.5" for shard in range(3)]
    assert (tmp_path / "p.csv").read_text().splitlines()[1:] == rows
    assert again.counts == {"num_videos": 3, "crc": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


def test_parts_of_a_packed_file_are_packed_when_they_are_joined(tmp_path: Path) -> None:
    parts = PredictionParts(str(tmp_path / "p.csv.gz"), model_version="v1", shards=SHARDS, top_k=1)
    predict(parts, 0, 2, 1)

    parts.join()

    rows = "".join(f"video{shard},7 0.5\n" for shard in range(3))
    assert gzip.decompress((tmp_path / "p.csv.gz").read_bytes()).decode() == "VideoId,LabelConfidencePairs\n" + rows
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv.gz"]


def test_a_line_that_a_kill_cut_short_costs_its_shard_alone(tmp_path: Path) -> None:
    predict(parts_of(tmp_path), 0, 1)
    done = tmp_path / "p.csv.parts" / "done.jsonl"
    done.write_text(done.read_text()[:-5])

    predict(parts_of(tmp_path), 2)

    assert parts_of(tmp_path).done == [0, 2]


@pytest.mark.parametrize("change", [{"model_version": "v2"}, {"shards": SHARDS[:2]}, {"top_k": 2}])
def test_parts_of_another_prediction_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    predict(parts_of(tmp_path), 0)

    with pytest.raises(ConfigError, match=r"^output: .*p.csv.parts holds predictions of \{.*'v1'.*; these are of \{"):
        parts_of(tmp_path, **change)


def test_a_prediction_that_finished_nothing_leaves_nothing(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    parts.write(0, (["video0"], BEST), np.arange(1))

    parts.abandon()

    assert list(tmp_path.iterdir()) == []


def test_a_prediction_that_fails_keeps_what_is_finished(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    predict(parts, 1)
    parts.write(2, (["video2"], BEST), np.arange(1))

    parts.abandon()

    assert parts_of(tmp_path).done == [1]

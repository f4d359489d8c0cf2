"""Merged prediction files: the bytes of the plain loop, the published meaning where it was right, what is refused."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.peers.plain_merge import merge_plainly
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.predictions.merge import merge_predictions

HEADER = "VideoId,LabelConfidencePairs\n"

Pairs = dict[int, float]


def save(path: Path, videos: dict[str, Pairs]) -> str:
    lines = (f"{video},{' '.join(f'{c} {s:g}' for c, s in pairs.items())}\n" for video, pairs in videos.items())
    path.write_text(HEADER + "".join(lines))
    return str(path)


def load(path: Path | str) -> dict[str, Pairs]:
    header, *lines = Path(path).read_text().splitlines(keepends=True)
    assert header == HEADER
    found = {}
    for line in lines:
        video, text = line.removesuffix("\n").split(",")
        words = text.split()
        found[video] = dict(zip(map(int, words[::2]), map(float, words[1::2]), strict=True))
    return found


def random_videos(rng: random.Random, ids: Sequence[str], num_classes: int = 40) -> dict[str, Pairs]:
    """Returns few classes and coarse scores, so that ties are many; some videos have no class."""
    return {
        video: {c: round(rng.random() ** 3, 2) for c in rng.sample(range(num_classes), rng.choice((0, 3, 20, 25)))}
        for video in ids
    }


IDS = [f"video{number}" for number in range(1500)]
ORDERS = {
    "the same order": (IDS, IDS, IDS),
    "a shorter file": (IDS, IDS[:1100], IDS[:700]),
    "a longer file": (IDS[:700], IDS, IDS[:1100]),
    "another order": (IDS, IDS[::-1], random.Random(5).sample(IDS, len(IDS))),
    "one missing early": (IDS, IDS[:3] + IDS[4:], IDS),
    "some missing everywhere": (IDS[5:], random.Random(6).sample(IDS, 900), IDS[:600] + IDS[700:]),
    "nothing in common": (IDS[:500], IDS[500:1000], IDS[1000:]),
}


@pytest.mark.parametrize("geometric", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_the_bytes_are_those_of_the_plain_loop(tmp_path: Path, order: str, geometric: bool) -> None:
    rng = random.Random(order)
    paths = [save(tmp_path / f"{n}.csv", random_videos(rng, ids)) for n, ids in enumerate(ORDERS[order])]
    mean: Any = "geometric" if geometric else "arithmetic"
    merge_predictions(paths, output=str(tmp_path / "ours.csv"), weights=[2.0, 1.0, 1.0], mean=mean, top_k=12)
    merge_plainly(paths, [0.5, 0.25, 0.25], str(tmp_path / "plain.csv"), top_k=12, geometric=geometric)
    assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()


def merged(folder: Path, *files: dict[str, Pairs], **options: Any) -> dict[str, Pairs]:
    paths = [save(folder / f"{number}.csv", videos) for number, videos in enumerate(files)]
    merge_predictions(paths, output=str(folder / "merged.csv"), **options)
    return load(folder / "merged.csv")


def test_a_label_that_one_file_does_not_list_counts_nothing_there(tmp_path: Path) -> None:
    found = merged(tmp_path, {"v": {3: 0.8, 4: 0.1}}, {"v": {3: 0.6, 5: 0.4}})
    assert list(found["v"].items()) == [(3, 0.7), (5, 0.2), (4, 0.05)]


def test_the_geometric_mean_keeps_the_label_that_both_files_have_in_front(tmp_path: Path) -> None:
    # The published tool, whose floor is a min instead of a max, gives {4: .1, 3: .0077, 5: 0} here.
    found = merged(tmp_path, {"v": {3: 0.8, 4: 0.1}}, {"v": {3: 0.6, 5: 0.4}}, mean="geometric")
    expected = {3: math.sqrt(0.8 * 0.6), 5: math.sqrt(1e-4 * 0.4), 4: math.sqrt(0.1 * 1e-4)}
    assert list(found["v"]) == [3, 5, 4]
    assert found["v"] == pytest.approx(expected, rel=1e-5)


def test_a_score_below_the_floor_counts_the_floor_in_a_geometric_mean(tmp_path: Path) -> None:
    found = merged(tmp_path, {"v": {3: 0.0, 4: 1e-9}}, {"v": {3: 0.25}}, mean="geometric")
    assert found["v"] == pytest.approx({3: math.sqrt(1e-4 * 0.25), 4: 1e-4}, rel=1e-5)


def test_weights_are_relative(tmp_path: Path) -> None:
    files = {"v": {1: 0.5}}, {"v": {1: 0.25}}
    assert merged(tmp_path, *files, weights=[6.0, 2.0]) == {"v": {1: 0.4375}}
    assert merged(tmp_path, *files, weights=[0.75, 0.25]) == {"v": {1: 0.4375}}


def test_a_video_that_a_file_lacks_gets_the_mean_of_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # As published for two files, where the one that is there counts w1 + w2.
    files = {"v": {1: 0.5}, "w": {1: 0.5}}, {"v": {1: 0.25}}, {"v": {1: 0.5}, "w": {1: 0.2}}
    assert merged(tmp_path, *files, weights=[0.5, 0.3, 0.2])["w"] == {1: round((0.5 * 0.5 + 0.2 * 0.2) / 0.7, 6)}
    (message,) = (record.getMessage() for record in caplog.records if "missing" in record.getMessage())
    assert message == f"{tmp_path}/1.csv: 1 of 2 videos are missing: w; the mean is that of the other files"


def test_a_missing_video_can_be_refused_and_leaves_no_file(tmp_path: Path) -> None:
    videos = {f"v{number}": {1: 0.5} for number in range(9)}
    with pytest.raises(ValueError, match=r"^\S+1\.csv: 8 of 9 videos are missing: v1, v2, v3, v4, v5, \.\.\.$"):
        merged(tmp_path, videos, {"v0": {1: 0.5}}, missing="fail")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.csv", "1.csv"]


def test_of_equal_means_the_lower_class_comes_first_and_stays(tmp_path: Path) -> None:
    found = merged(tmp_path, {"v": {9: 0.5, 2: 0.5, 7: 0.5}}, {"v": {4: 0.5, 2: 0.0}}, top_k=3)
    assert list(found["v"].items()) == [(2, 0.25), (4, 0.25), (7, 0.25)]


def test_videos_follow_the_first_file_and_then_those_of_the_others(tmp_path: Path) -> None:
    files = [{video: {1: 0.5} for video in ids} for ids in ("ca", "xbay", "zbx")]
    assert list(merged(tmp_path, *files)) == ["c", "a", "x", "b", "y", "z"]


def test_a_file_with_weight_0_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("no,predictions\n")
    good = save(tmp_path / "good.csv", {"v": {1: 0.5}})
    merge_predictions([good, str(tmp_path / "bad.csv")], output=str(tmp_path / "m.csv"), weights=[1, 0])
    assert load(tmp_path / "m.csv") == {"v": {1: 0.5}}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"expected one a file, 2, found 1"),
        ([1.0, -0.5], r"expected numbers from 0 on, not all 0, found 1 -0\.5"),
        ([0.0, 0.0], r"expected numbers from 0 on, not all 0, found 0 0"),
        ([1.0, math.nan], r"expected numbers from 0 on, not all 0, found 1 nan"),
    ],
)
def test_weights_that_are_none_are_refused(tmp_path: Path, weights: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^weights: {message}$"):
        merged(tmp_path, {"v": {1: 0.5}}, {"v": {1: 0.5}}, weights=weights)


@pytest.mark.parametrize("order", ["vwx", "xwv"])
def test_a_video_that_is_twice_in_a_file_is_refused(tmp_path: Path, order: str) -> None:
    lines = "".join(f"{video},1 0.5\n" for video in "vwxw")
    (tmp_path / "twice.csv").write_text(HEADER + lines)
    good = save(tmp_path / "good.csv", {video: {1: 0.5} for video in order})
    message = re.escape(f"{tmp_path}/twice.csv: video 'w' is there twice: line 3, line 5")
    for paths in (
        [good, str(tmp_path / "twice.csv")],
        [str(tmp_path / "twice.csv"), good],
        [str(tmp_path / "twice.csv")],
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            merge_predictions(paths, output=str(tmp_path / "merged.csv"))
        assert not (tmp_path / "merged.csv").exists()


def test_the_same_video_twice_in_two_files_of_one_order_is_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(HEADER + "v,1 0.5\nw,1 0.5\nv,1 0.25\n")
    with pytest.raises(ValueError, match=r"a\.csv: video 'v' is there twice: line 2, line 4"):
        merge_predictions([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")], output=str(tmp_path / "m.csv"))


@pytest.mark.parametrize(("content", "message"), [("", "the file is empty"), (HEADER, "no predictions")])
def test_a_file_without_predictions_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "empty.csv").write_text(content)
    good = save(tmp_path / "good.csv", {"v": {1: 0.5}})
    with pytest.raises(ValueError, match=rf"empty\.csv: {message}"):
        merge_predictions([good, str(tmp_path / "empty.csv")], output=str(tmp_path / "merged.csv"))


def in_every_format(folder: Path, videos: dict[str, Pairs]) -> list[str]:
    """Saves the same predictions as CSV with and without header, Parquet, and JSON lines of both shapes."""
    paths = [save(folder / "with.csv", videos), str(folder / "without.csv"), str(folder / "p.parquet")]
    (folder / "without.csv").write_text((folder / "with.csv").read_text().removeprefix(HEADER))
    columns = [list(videos), [list(pairs) for pairs in videos.values()], [list(p.values()) for p in videos.values()]]
    types = [pa.string(), pa.list_(pa.int32()), pa.list_(pa.float32())]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    pq.write_table(pa.table(arrays, ["video_id", "class_ids", "scores"]), paths[2], row_group_size=100)
    for name, shape in (("plain.json", lambda found: found), ("nested.json", lambda found: [found])):
        objects = (
            {"video_id": video, "class_indexes": shape(list(pairs)), "predictions": shape(list(pairs.values()))}
            for video, pairs in videos.items()
        )
        (folder / name).write_text("".join(json.dumps(found) + "\n" for found in objects))
        paths.append(str(folder / name))
    return paths


def test_every_format_says_the_same(tmp_path: Path) -> None:
    rng = random.Random(1)
    ids = [f"v{number}" for number in range(700)]
    # Numbers that six digits and a float32 hold exactly.
    videos = {video: {c: rng.randrange(65) / 64 for c in rng.sample(range(90), 5)} for video in ids}
    shuffled = save(tmp_path / "shuffled.csv", {video: videos[video] for video in rng.sample(ids, len(ids))})
    for path in in_every_format(tmp_path, videos):
        merge_predictions([path], output=str(tmp_path / "alone.csv"))
        assert list(load(tmp_path / "alone.csv").items()) == list(videos.items()), path
        merge_predictions([shuffled, path], output=str(tmp_path / "both.csv"))  # rows by number
        assert load(tmp_path / "both.csv") == load(shuffled), path


def test_a_csv_becomes_a_parquet_file_and_the_same_csv_again(tmp_path: Path) -> None:
    videos = random_videos(random.Random(2), ["é", "b", "c"])
    path = save(tmp_path / "a.csv", videos)
    merge_predictions([path], output=str(tmp_path / "a.parquet"), top_k=30)
    assert pq.read_table(tmp_path / "a.parquet")["video_id"].to_pylist() == ["é", "b", "c"]
    merge_predictions([str(tmp_path / "a.parquet")], output=str(tmp_path / "b.csv"), top_k=30)
    assert load(tmp_path / "b.csv") == videos

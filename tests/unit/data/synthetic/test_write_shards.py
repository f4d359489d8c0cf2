from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from yt8m_ray.data.format.example import decode_record
from yt8m_ray.data.format.features import FeatureSpec, VideoRow
from yt8m_ray.data.format.tfrecord import read_payloads
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.data.pipeline.shard_reader import read_rows
from yt8m_ray.data.storage.filesystem import open_stream
from yt8m_ray.data.synthetic.config import SynthesisConfig
from yt8m_ray.data.synthetic.planted_labels import (
    LABEL_COUNT_SHARES,
    NOISE_STD,
    WINDOW_LENGTHS,
    PlantedWorld,
    class_counts,
    draw_prototypes,
    quantize,
)
from yt8m_ray.data.synthetic.write_shards import synthesize
from yt8m_ray.schema import FRAME_FEATURES, VIDEO_FEATURES

NUM_CLASSES = 12
FRAME_SPEC = FeatureSpec(FRAME_FEATURES, num_classes=NUM_CLASSES)
VIDEO_SPEC = FeatureSpec(VIDEO_FEATURES, num_classes=NUM_CLASSES)


class LoopGAP:
    """GAP@20 by a loop over the ranked pairs of all videos."""

    def __init__(self) -> None:
        self.pairs: list[tuple[float, bool]] = []
        self.num_positives = 0

    def update(self, scores: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
        for video_scores, video_labels in zip(scores, labels, strict=True):
            best = sorted(zip(video_scores.tolist(), video_labels.tolist(), strict=True), key=lambda pair: -pair[0])[
                :20
            ]
            self.pairs += best
            self.num_positives += int(video_labels.sum())

    def compute(self) -> float:
        precisions, found = 0.0, 0
        for rank, (_, is_label) in enumerate(sorted(self.pairs, key=lambda pair: -pair[0]), start=1):
            if is_label:
                found += 1
                precisions += found / rank
        return precisions / self.num_positives


def write(output: Path, **changes: Any) -> dict[str, Any]:
    small = {"num_shards": 2, "videos_per_shard": 20, "num_classes": NUM_CLASSES, "min_frames": 8, "max_frames": 12}
    return synthesize(SynthesisConfig.model_validate(small | changes), output, new_gap=LoopGAP)


def rows_of(folder: Path, spec: FeatureSpec) -> list[VideoRow]:
    return [row for path in sorted(folder.glob("*.tfrecord")) for _, row in read_rows(str(path), spec)]


@pytest.fixture(scope="module")
def frame_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("frame_level") / "shards"
    write(output)
    return output


def test_frame_level_records_have_the_published_keys_and_sizes(frame_level: Path) -> None:
    with open_stream(str(frame_level / "train0000.tfrecord")) as stream:
        _, _, payload = next(read_payloads(stream, path="train0000.tfrecord"))
        fields = decode_record(bytes(payload))

    assert set(fields.context) == {"id", "labels"}
    sizes = {name: frames.shape[1:] for name, frames in fields.sequences.items()}  # type: ignore[union-attr]
    assert sizes == {"rgb": (1024,), "audio": (128,)}


def test_video_level_records_have_the_published_keys_and_sizes(tmp_path: Path) -> None:
    write(tmp_path / "shards", kind="video")

    with open_stream(str(tmp_path / "shards" / "train0001.tfrecord")) as stream:
        _, _, payload = next(read_payloads(stream, path="train0001.tfrecord"))
        context = decode_record(bytes(payload)).context

    assert set(context) == {"id", "labels", "mean_rgb", "mean_audio"}
    assert (len(context["mean_rgb"]), len(context["mean_audio"])) == (1024, 128)


def test_the_document_counts_what_the_shards_hold(frame_level: Path) -> None:
    rows = rows_of(frame_level, FRAME_SPEC)

    document = json.loads((frame_level / "dataset.json").read_text())

    assert document["num_videos"] == document["num_scored_videos"] == len(rows) == 40
    assert document["num_labels"] == sum(len(row.labels) for row in rows)
    assert document["num_frames"] == sum(len(row.frames) for row in rows)
    assert document["provenance"].startswith("Synthetic")


def test_the_folder_holds_the_shards_and_the_document_alone(frame_level: Path) -> None:
    assert sorted(path.name for path in frame_level.iterdir()) == [
        "dataset.json",
        "train0000.tfrecord",
        "train0001.tfrecord",
    ]
    assert [path.name for path in frame_level.parent.iterdir()] == ["shards"]


def test_clips_are_as_long_as_asked_for(frame_level: Path) -> None:
    lengths = {len(row.frames) for row in rows_of(frame_level, FRAME_SPEC)}

    assert lengths <= set(range(8, 13)) and len(lengths) > 1


def test_every_video_has_a_label_and_an_id_of_four_characters_of_its_own(frame_level: Path, tmp_path: Path) -> None:
    write(tmp_path / "shards", split="validate")

    rows = rows_of(frame_level, FRAME_SPEC) + rows_of(tmp_path / "shards", FRAME_SPEC)

    assert min(len(row.labels) for row in rows) >= 1
    assert {len(row.video_id) for row in rows} == {4}
    assert len({row.video_id for row in rows}) == 80


@pytest.mark.parametrize("kind", ["frame", "video"])
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, kind=kind, seed=7)

    for one in (tmp_path / "one").iterdir():
        assert one.read_bytes() == (tmp_path / "two" / one.name).read_bytes()


def test_a_shard_does_not_depend_on_the_number_of_shards(frame_level: Path, tmp_path: Path) -> None:
    write(tmp_path / "shards", num_shards=1)

    assert (tmp_path / "shards" / "train0000.tfrecord").read_bytes() == (
        frame_level / "train0000.tfrecord"
    ).read_bytes()


@pytest.mark.parametrize("change", [{"seed": 1}, {"split": "validate"}, {"world": 1}])
def test_another_seed_split_or_world_gives_other_videos(
    frame_level: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    write(tmp_path / "shards", **change)

    (first,) = (tmp_path / "shards").glob("*0000.tfrecord")

    assert first.read_bytes() != (frame_level / "train0000.tfrecord").read_bytes()


def test_classes_look_alike_whatever_their_number_and_differ_between_worlds() -> None:
    few, many, elsewhere = (
        draw_prototypes(3, 2, world=5),
        draw_prototypes(6, 2, world=5),
        draw_prototypes(3, 2, world=6),
    )

    assert np.array_equal(few, many[:3])
    assert not np.array_equal(few, elsewhere)
    assert np.linalg.norm(few, axis=2) == pytest.approx(1, abs=1e-5)


def test_modes_of_a_class_nearly_cancel_out_and_classes_are_nearly_orthogonal() -> None:
    prototypes = draw_prototypes(4, 3, world=0).astype(np.float64)

    across = prototypes[0] @ prototypes[1].T
    assert np.abs(across).max() < 0.15  # random directions of 1,152 dimensions: 0.03 on average
    # |mean|^2 is the shared energy of 0.2, where three independent directions would keep a third.
    assert np.square(prototypes.mean(axis=1)).sum(axis=1) == pytest.approx(0.2, abs=0.05)


def test_a_label_marks_a_few_consecutive_frames_and_leaves_the_rest_alone() -> None:
    world = PlantedWorld(NUM_CLASSES, num_modes=1, world=0, signal=16.0)
    random = np.random.default_rng(0)

    for _ in range(20):
        video = world.draw_clip(random, 60)
        frames = video.features * (4 / 255) - 2
        for class_id in video.class_ids:
            shown = frames @ draw_prototypes(NUM_CLASSES, 1, world=0)[class_id, 0] / NOISE_STD  # noise has spread 1
            (marked,) = np.nonzero(shown > 8)
            assert len(marked) in WINDOW_LENGTHS
            assert marked[-1] - marked[0] == len(marked) - 1
            assert shown[marked].mean() == pytest.approx(16, abs=3)


@pytest.mark.parametrize("every", [1, 10, 30])
def test_scaled_windows_show_every_label_to_whoever_reads_every_30th_frame(every: int) -> None:
    world = PlantedWorld(NUM_CLASSES, num_modes=1, world=0, signal=16.0, window_scale=10)
    random, prototypes = np.random.default_rng(0), draw_prototypes(NUM_CLASSES, 1, world=0)[:, 0]

    for _ in range(10):
        video = world.draw_clip(random, int(random.integers(60, 301)))
        shown = (video.features[::every] * (4 / 255) - 2) @ prototypes[video.class_ids].T / NOISE_STD
        num_marked = (shown > 10).sum(axis=0)
        assert num_marked.min() >= 30 // every
        assert num_marked.max() <= 60 // every + 2


def test_the_ideal_scorer_knows_how_long_scaled_windows_are(tmp_path: Path) -> None:
    scaled = {"window_scale": 4, "min_frames": 24, "max_frames": 48, "signal": 1.0}

    document = write(tmp_path / "scaled", **scaled)

    assert document["window_scale"] == 4
    # Four times as many frames of half the signal tell as much.
    few = write(tmp_path / "few", signal=2.0)["ideal_scorer_gap"]
    assert document["ideal_scorer_gap"] == pytest.approx(few, abs=0.1)


def test_distractors_add_to_the_mean_over_the_clip_what_labels_add() -> None:
    world = PlantedWorld(NUM_CLASSES, num_modes=1, world=0, signal=16.0)
    random, prototypes = np.random.default_rng(1), draw_prototypes(NUM_CLASSES, 1, world=0)[:, 0]
    of_labels, of_others = [], []

    for _ in range(200):
        video = world.draw_clip(random, 60)
        shown = (video.features * (4 / 255) - 2).mean(axis=0) @ prototypes.T / NOISE_STD
        is_label = np.isin(np.arange(NUM_CLASSES), video.class_ids)
        of_labels += shown[is_label].tolist()
        of_others += shown[~is_label & (shown > 0.45)].tolist()  # absent classes lie around 0 with a spread of 0.13

    # Signal 16 in 3 to 6 of 60 frames: 1.2 on average.
    assert np.mean(of_labels) == pytest.approx(1.2, abs=0.05)
    assert np.mean(of_others) == pytest.approx(1.2, abs=0.1)
    assert len(of_others) / 200 == pytest.approx(1.5, abs=0.25)


def test_class_frequencies_follow_the_vocabulary() -> None:
    world = PlantedWorld(200, num_modes=1, world=0, signal=16.0)
    random = np.random.default_rng(2)

    drawn = [world.draw_mean(random, 60).class_ids for _ in range(2000)]

    counts = np.bincount(np.concatenate(drawn), minlength=200)
    published = Vocabulary.for_num_classes(200).train_video_counts
    assert np.corrcoef(counts, published)[0, 1] > 0.97
    assert counts / 2000 == pytest.approx(world.class_probabilities, abs=0.05)
    mean_labels = sum(count * share for count, share in enumerate(LABEL_COUNT_SHARES, start=1))
    assert counts.sum() / 2000 == pytest.approx(mean_labels, abs=0.15)


def test_the_label_counts_are_a_distribution_with_a_mean_of_about_three() -> None:
    assert sum(LABEL_COUNT_SHARES) == pytest.approx(1)
    assert sum(count * share for count, share in enumerate(LABEL_COUNT_SHARES, start=1)) == pytest.approx(3, abs=0.1)


def test_the_ideal_scorer_equals_a_loop_over_modes_lengths_and_places() -> None:
    world = PlantedWorld(4, num_modes=2, world=3, signal=1.5)
    video = world.draw_clip(np.random.default_rng(4), 9)
    prototypes = draw_prototypes(4, 2, world=3).astype(np.float64) * 1.5
    frames = (video.features * (4 / 255) - 2.0) / NOISE_STD

    def likelihood_ratio(signal: npt.NDArray[np.float64]) -> float:
        """p(frames | signal + noise) / p(frames | noise), noise of spread 1."""
        return float(np.exp(((frames * signal).sum(axis=1) - np.square(signal).sum(axis=1) / 2).sum()))

    for class_id in range(4):
        as_label, as_distractor = [], []
        for mode, length in itertools.product(range(2), (3, 4, 5, 6)):
            prototype = prototypes[class_id, mode]
            places = []
            for start in range(9 - length + 1):
                signal = np.zeros_like(frames)
                signal[start : start + length] = prototype
                places.append(likelihood_ratio(signal))
            as_label.append(np.mean(places))
            as_distractor.append(likelihood_ratio(np.tile(prototype * length / 9, (9, 1))))
        label = world.class_probabilities[class_id]
        distractor = world._distractor_probabilities[class_id]
        against = distractor * np.mean(as_distractor) + 1 - label - distractor
        expected = np.log(label * np.mean(as_label) / against)
        assert world.score_clip(video.features)[class_id] == pytest.approx(expected, abs=2e-3)


def test_the_ideal_scorer_of_means_equals_a_loop_over_modes_and_lengths() -> None:
    world = PlantedWorld(4, num_modes=2, world=3, signal=4.0)
    video = world.draw_mean(np.random.default_rng(4), 50)
    prototypes = draw_prototypes(4, 2, world=3).astype(np.float64) * 4.0

    for class_id in range(4):
        ratios = []
        for mode, length in itertools.product(range(2), (3, 4, 5, 6)):
            signal = prototypes[class_id, mode] * length / 50
            mean = video.features.astype(np.float64) / NOISE_STD
            ratios.append(np.exp(50 * (mean @ signal - signal @ signal / 2)))  # the mean's noise has variance 1 / 50
        label = world.class_probabilities[class_id]
        expected = np.log(np.mean(ratios) * label / (1 - label))
        assert world.score_mean(video.features, 50)[class_id] == pytest.approx(expected, abs=1e-3)


def test_the_ideal_scorer_is_near_perfect_in_weak_noise_and_lost_in_strong(tmp_path: Path) -> None:
    gaps = [write(tmp_path / str(signal), signal=signal)["ideal_scorer_gap"] for signal in (16.0, 1.0, 0.01)]
    prior = write(tmp_path / "prior", signal=0.01)["class_prior_gap"]

    assert gaps[0] > 0.99
    assert 0.9 * gaps[0] > gaps[1] > gaps[2] + 0.1
    assert gaps[2] == pytest.approx(prior, abs=0.1)


def test_the_published_rounding_takes_each_value_to_its_nearest_byte() -> None:
    values = np.array([-5, -2, -1.99, 0.0, 0.01, 2, 5], dtype=np.float32)

    assert quantize(values).tolist() == [0, 0, 1, 128, 128, 255, 255]  # round((x + 2) * 255 / 4), half to even


def test_classes_beyond_the_table_go_on_in_its_tails_law(tmp_path: Path) -> None:
    counts = class_counts(4716)

    assert np.array_equal(counts[:3862], Vocabulary.load().train_video_counts)
    assert (np.diff(counts[3862:]) < 0).all()
    # The last 1,000 published classes have 140 to 210 videos and halve about every 50 % of rank.
    assert 135 < counts[3862] < 150
    assert 90 < counts[4715] < 110


def test_a_data_set_may_have_the_classes_of_2017(tmp_path: Path) -> None:
    write(tmp_path / "shards", num_classes=4716, num_shards=1, videos_per_shard=3, kind="video")

    rows = rows_of(tmp_path / "shards", FeatureSpec(VIDEO_FEATURES, num_classes=4716))

    assert len(rows) == 3


def test_a_folder_that_holds_something_is_refused_and_kept(frame_level: Path) -> None:
    before = {path.name: path.read_bytes() for path in frame_level.iterdir()}

    with pytest.raises(ValueError, match="expected a folder that is empty"):
        write(frame_level, seed=3)

    assert {path.name: path.read_bytes() for path in frame_level.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_frames": 60, "max_frames": 50}, "min_frames 60 is more than max_frames 50"),
        ({"min_frames": 5}, "greater than or equal to 6"),
        ({"window_scale": 10}, "with window_scale 10 a label marks up to 60 frames, found 40"),
        ({"window_scale": 2, "from_video_level": "x"}, "window_scale: in clips around real means no label marks"),
        ({"num_classes": 4717}, "less than or equal to 4716"),
        ({"kind": "video", "from_video_level": "x"}, "expected kind frame, found video"),
        ({"num_shards": 9999, "videos_per_shard": 1000}, "at most 4925445, found 9999000"),
    ],
)
def test_a_data_set_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SynthesisConfig.model_validate(change)

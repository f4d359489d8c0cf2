"""A process that makes videos whose labels are known to be learnable, and the scorer that knows the process.

Every class has one or several prototypes, directions in feature space. A label shows one of them strongly in a few
consecutive frames. A distractor, a class that is no label, shows one weakly in all frames, so that both add the same to
the mean over the clip: a model that averages frames first cannot tell them apart, one that looks at single frames can.
White noise is added to all frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.schema import DEQUANTIZATION_SCALE, FRAME_FEATURES, QUANTIZATION_RANGE

FEATURE_DIM = sum(FRAME_FEATURES.values())

# Spread of a feature over the frames of a clip, in units of the features; 0.30 in a real clip of 170 frames.
NOISE_STD = 0.3
# Frames, that is seconds, that a label marks where windows are not scaled; each is equally likely.
WINDOW_LENGTHS = (3, 4, 5, 6)
# Shares of videos with 1, 2, ... labels, mean 2.96: counted in 1,038 videos of the published validation set.
LABEL_COUNT_SHARES = (0.246, 0.230, 0.200, 0.144, 0.090, 0.039, 0.030, 0.012, 0.009)
# Shares of clips with 0, 1, ... distractors: half as many as labels, so that the average still says something.
DISTRACTOR_COUNT_SHARES = (0.15, 0.35, 0.35, 0.15)
# Part of a prototype's energy that all modes of its class share. The other parts cancel out over the modes, so that a
# linear classifier of the average is left with the shared part, and a mixture can have it all.
SHARED_ENERGY = 0.2
# Last classes of the published vocabulary, from which the frequencies of further ones are continued.
TAIL_CLASSES = 1000
# Keeps the random numbers of the prototypes apart from those of the samples.
_PROTOTYPES_STREAM = 0x50524F54

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PlantedVideo:
    """One video: its labels, ascending, and quantized frames, uint8 [T, D], or their mean, float32 [D]."""

    class_ids: npt.NDArray[np.int64]
    features: npt.NDArray[Any]


def draw_prototypes(num_classes: int, num_modes: int, world: int) -> Floats:
    """Returns the prototypes [C, M, D], each of length 1; those of a class depend on its id, M and `world` alone."""
    prototypes = np.empty((num_classes, num_modes, FEATURE_DIM), dtype=np.float32)
    for class_id in range(num_classes):
        # A stream of its own: a class looks alike whatever the number of classes.
        random = np.random.default_rng([_PROTOTYPES_STREAM, world, class_id])
        shared = random.standard_normal(FEATURE_DIM, dtype=np.float32)
        if num_modes == 1:
            prototypes[class_id] = shared
            continue
        own = random.standard_normal((num_modes, FEATURE_DIM), dtype=np.float32)
        # The parts cancel out over the modes, and keep their energy.
        own = (own - own.mean(axis=0)) * np.sqrt(num_modes / (num_modes - 1), dtype=np.float32)
        prototypes[class_id] = np.sqrt(SHARED_ENERGY) * shared + np.sqrt(1 - SHARED_ENERGY) * own
    prototypes /= np.linalg.norm(prototypes, axis=2, keepdims=True)
    return prototypes


def quantize(frames: Floats) -> npt.NDArray[np.uint8]:
    """Returns the bytes that the published feature extractor stores."""
    low, high = QUANTIZATION_RANGE
    steps = np.float32(np.iinfo(np.uint8).max / (high - low))
    return ((frames.clip(low, high) - np.float32(low)) * steps).round().astype(np.uint8)


def class_counts(num_classes: int) -> npt.NDArray[np.float64]:
    """Returns how often each class occurs [C]: the videos of the published training set, and their law beyond it."""
    # The tail of the table of 3,862 classes is close to a power of the rank, which is fitted and continued.
    published = Vocabulary.load().train_video_counts.astype(np.float64)
    ranks = np.arange(1, max(num_classes, len(published)) + 1)
    tail = slice(len(published) - TAIL_CLASSES, len(published))
    exponent, offset = np.polyfit(np.log(ranks[tail]), np.log(published[tail]), 1)
    continued = np.exp(offset + exponent * np.log(ranks[len(published) :]))
    return np.concatenate([published, continued])[:num_classes]


class PlantedWorld:
    """The classes of one world: makes videos, and knows how to score them.

    Args:
        num_classes: C, at least 2; frequencies are those of `class_counts`.
        num_modes: Prototypes a class; each video and class shows one of them, each equally often.
        world: Number of the world; videos of one world can be learned from one another.
        signal: Length of a prototype in a marked frame, in standard deviations of the noise.
        window_scale: What the lengths of the windows are multiplied by.
    """

    def __init__(self, num_classes: int, *, num_modes: int, world: int, signal: float, window_scale: int = 1) -> None:
        self.signal = signal
        self.window_lengths = tuple(length * window_scale for length in WINDOW_LENGTHS)
        self._prototypes = draw_prototypes(num_classes, num_modes, world)
        counts = class_counts(num_classes)
        self._log_frequencies = np.log(counts / counts.sum())
        # Of few classes, half are left for distractors.
        max_labels = max(num_classes // 2, 1)
        self._label_shares = _clip_counts(np.array((0.0, *LABEL_COUNT_SHARES)), max_labels)
        self._distractor_shares = _clip_counts(np.array(DISTRACTOR_COUNT_SHARES), num_classes - max_labels)
        num_labels, num_distractors = (
            float(shares @ np.arange(len(shares))) for shares in (self._label_shares, self._distractor_shares)
        )
        # float64 [C], the share of the videos that have each label.
        self.class_probabilities = _inclusion_probabilities(self._log_frequencies, num_labels)
        with_distractors = _inclusion_probabilities(self._log_frequencies, num_labels + num_distractors)
        self._distractor_probabilities = with_distractors - self.class_probabilities

    def draw_clip(self, random: np.random.Generator, num_frames: int) -> PlantedVideo:
        """Returns a frame-level video of `num_frames` frames, at least as many as the longest window."""
        class_ids, distractor_ids = self._draw_classes(random)
        frames = random.standard_normal((num_frames, FEATURE_DIM), dtype=np.float32)
        # A distractor adds to the mean over the clip as much as a label's window, but evenly.
        background = np.zeros(FEATURE_DIM, dtype=np.float32)
        for class_id in distractor_ids:
            background += self._draw_prototype(random, class_id) * (self._draw_window_length(random) / num_frames)
        frames += background
        for class_id in class_ids:
            length = self._draw_window_length(random)
            start = random.integers(num_frames - length + 1)
            frames[start : start + length] += self._draw_prototype(random, class_id)
        return PlantedVideo(np.sort(class_ids), quantize(frames * np.float32(NOISE_STD)))

    def draw_mean(self, random: np.random.Generator, num_frames: int) -> PlantedVideo:
        """Returns a video-level video: the mean of a clip of `num_frames` frames without distractors."""
        class_ids, _ = self._draw_classes(random)
        # The mean of T frames of white noise has a spread of 1 / sqrt(T).
        mean = random.standard_normal(FEATURE_DIM, dtype=np.float32) / np.float32(np.sqrt(num_frames))
        for class_id in class_ids:
            mean += self._draw_prototype(random, class_id) * (self._draw_window_length(random) / num_frames)
        return PlantedVideo(np.sort(class_ids), mean * np.float32(NOISE_STD))

    def score_clip(self, frames: npt.NDArray[np.uint8]) -> Floats:
        """Returns the log odds [C] that each class is a label of a clip of stored frames [T, D]."""
        # For each class alone, the Bayes posterior of label against distractor and absence, summed over modes, lengths
        # and places of the window; the other classes in the clip count as noise.
        low, _ = QUANTIZATION_RANGE
        matches = self._match((frames * np.float32(DEQUANTIZATION_SCALE) + np.float32(low)) / np.float32(NOISE_STD))
        sums = np.concatenate([np.zeros_like(matches[:1]), matches.cumsum(axis=0)])
        # Against noise of spread 1, a frame x of prototype p has the log likelihood ratio x p - |p|^2 / 2.
        windows, spread = [], []
        for length in self.window_lengths:
            windows.append(_log_mean_exp(sums[length:] - sums[:-length]) - length * self.signal**2 / 2)
            share = length / len(frames)
            spread.append(share * sums[-1] - length * share * self.signal**2 / 2)
        return self._log_odds(_log_mean_exp(np.stack(windows)), _log_mean_exp(np.stack(spread)))

    def score_mean(self, mean: Floats, num_frames: int) -> Floats:
        """Returns the log odds [C] that each class is a label of a video-level video made of `num_frames` frames."""
        matches = self._match(mean[np.newaxis] / np.float32(NOISE_STD))[0]
        # The mean of T frames, L of them marked, is L p / T in noise of variance 1 / T: L x p - L^2 |p|^2 / 2 T.
        ratios = [length * matches - length**2 / num_frames * self.signal**2 / 2 for length in self.window_lengths]
        return self._log_odds(_log_mean_exp(np.stack(ratios)), None)

    def _draw_classes(self, random: np.random.Generator) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Returns label ids and distractor ids, drawn by frequency without repetition."""
        num_labels = random.choice(len(self._label_shares), p=self._label_shares)
        num_drawn = num_labels + random.choice(len(self._distractor_shares), p=self._distractor_shares)
        # The order of log frequency + Gumbel noise is that of successive draws.
        keys = self._log_frequencies + random.gumbel(size=len(self._log_frequencies))
        drawn = np.argsort(-keys, kind="stable")[:num_drawn]
        return drawn[:num_labels], drawn[num_labels:]

    def _draw_window_length(self, random: np.random.Generator) -> int:
        return self.window_lengths[random.integers(len(self.window_lengths))]

    def _draw_prototype(self, random: np.random.Generator, class_id: int) -> Floats:
        modes = self._prototypes[class_id]
        prototype: Floats = modes[random.integers(len(modes))] * np.float32(self.signal)
        return prototype

    def _match(self, frames: Floats) -> Floats:
        """Returns what a frame adds to the log likelihood ratio of each prototype, but for its energy: [T, C * M]."""
        matches: Floats = (frames @ self._prototypes.reshape(-1, FEATURE_DIM).T) * np.float32(self.signal)
        return matches

    def _log_odds(self, label_ratios: Floats, distractor_ratios: Floats | None) -> Floats:
        """Returns the log odds [C] from log likelihood ratios [C * M] of label and distractor against absence."""
        shape = self._prototypes.shape[:2]
        label = np.log(self.class_probabilities) + _log_mean_exp(label_ratios.reshape(shape).T)
        if distractor_ratios is None:
            return np.asarray(label - np.log1p(-self.class_probabilities), dtype=np.float32)
        distractor = np.log(self._distractor_probabilities) + _log_mean_exp(distractor_ratios.reshape(shape).T)
        absent = np.log1p(-self.class_probabilities - self._distractor_probabilities)
        return np.asarray(label - np.logaddexp(absent, distractor), dtype=np.float32)


def _log_mean_exp(values: Floats) -> Floats:
    """Returns log(mean(exp(values))) over the first axis."""
    # The largest exponent is 0: nothing overflows.
    highest = values.max(axis=0)
    log_mean: Floats = highest + np.log(np.exp(values - highest).mean(axis=0))
    return log_mean


def _clip_counts(shares: npt.NDArray[np.float64], highest: int) -> npt.NDArray[np.float64]:
    """Returns the shares of the counts 0..highest, to which those of higher counts are added."""
    clipped = shares[: highest + 1].copy()
    clipped[-1] += shares[highest + 1 :].sum()
    return clipped


def _inclusion_probabilities(log_frequencies: npt.NDArray[np.float64], num_drawn: float) -> npt.NDArray[np.float64]:
    """Returns about how likely each class is among `num_drawn` successive draws without repetition."""
    # Draws at the times of independent Poisson processes differ from these only in that their number is not fixed:
    # 1 - exp(-t * frequency), at the time t at which `num_drawn` distinct classes are expected.
    frequencies = np.exp(log_frequencies)
    # A hundred bisections: more than a float64 has bits.
    low, high = 0.0, 1e9
    for _ in range(100):
        time = (low + high) / 2
        low, high = (time, high) if -np.expm1(-time * frequencies).sum() < num_drawn else (low, time)
    return np.asarray(-np.expm1(-low * frequencies))

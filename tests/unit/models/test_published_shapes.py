"""The NumPy forms without golden outputs: their variables' counts as published, and their indifference to padding."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

from tests.published import shapes
from tests.published.layers import softmax
from tests.published.nextvlad import mix_losses
from tests.published.recurrent import hierarchical_lstm
from tests.published.small import EXAMPLES, NUM_CLASSES, NUM_FRAMES, small_frames

SIZES = (1024, 128)
# Section B of the 2019 reference, exactly or as rounded there to 10 000 or 100 000.
PUBLISHED = {
    "dbof-3": (shapes.gated_dbof_moe(1152, 4096, 2048, 1000), 36_043_685, 1),
    "dbof-1": (shapes.gated_dbof_moe(1152, 4096, 2048, 1000, num_mixtures=5), 38_094_734, 1),
    "nextvlad-2": (shapes.nextvlad_moe(SIZES, 64, 16, 2048, 1000), 32_570_757, 1),
    "nxvlad-1": (shapes.nextvlad_moe(SIZES, 64, 32, 2048, 1000), 25_909_925, 1),
    "hierarchical LSTM": (shapes.hierarchical_lstm(1152, 1024, 4716), 143_271_128, 1),
    "MoNN3L": (shapes.monn(2307, [4096] * 3, 4716), 144_500_000, 100_000),
    "MoNN2Lw": (shapes.monn(2305, [13830, 6915], 4716), 268_900_000, 100_000),
    "MoNN2Lw, 2 mixtures": (shapes.monn(2305, [13830, 6915], 4716, 2), 225_400_000, 100_000),
    "MoNN3Lw": (shapes.monn(2305, [18440, 2305, 9220], 4716), 280_200_000, 100_000),
    "MoNN4Ln": (shapes.monn(2305, [2048] * 4, 4716), 89_800_000, 100_000),
    "Lstmbidirect 1200": (shapes.bidirectional_lstm(1152, 1200) | shapes.moe(1200, 4716), 48_240_000, 10_000),
    "GRUbidirect 1250": (shapes.bidirectional_gru(1152, 1250) | shapes.moe(1250, 4716), 45_530_000, 10_000),
    "NeXtVLAD 8G": (shapes.nextvlad(SIZES, 128, 8, 2048, 3862), 89_000_000, 1_000_000),
    "NeXtVLAD of the mixture": (
        shapes.nextvlad(SIZES, 112, 8, 2048, 3862, gating_reduction=16),
        79_000_000,
        1_000_000,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_variables_come_to_the_published_count(name):
    variables, published, unit = PUBLISHED[name]
    trained = sum(prod(shape) for variable, shape in variables.items() if "/moving_" not in variable)
    assert round(trained / unit) * unit == published


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_clip_scores_the_same_alone_and_beside_a_longer_one(name):
    frames, example = small_frames(), EXAMPLES[name]
    together = example(frames, NUM_FRAMES)
    assert together.shape == (3, NUM_CLASSES)
    assert ((together > 0) & (together < 1)).all()
    for i, n in enumerate(NUM_FRAMES):
        np.testing.assert_allclose(example(frames[i : i + 1, :n], [n])[0], together[i], rtol=1e-12)


@pytest.mark.parametrize("name", EXAMPLES)
def test_clips_score_differently(name):
    assert np.ptp(EXAMPLES[name](small_frames(), NUM_FRAMES), axis=0).max() > 1e-3


def test_a_hierarchical_lstm_of_every_fourth_frame_is_one_of_those_frames_alone():
    example, frames = EXAMPLES["teacher"], small_frames()
    kept = hierarchical_lstm(example.variables(), frames, NUM_FRAMES, num_blocks=2, every_n=4, max_frames=24)
    chosen = hierarchical_lstm(example.variables(), frames[:, ::4], [6, 2, 1], num_blocks=2, max_frames=6)
    np.testing.assert_allclose(kept, chosen, rtol=1e-12)


def test_a_mixture_whose_branches_agree_has_no_divergence_and_four_equal_entropies():
    logits = np.random.RandomState(2).randn(4, 5)
    labels = (logits > 1.0).astype(float)
    terms = mix_losses(logits, np.stack([logits] * 3), labels)
    assert terms["kl"] == pytest.approx(0.0, abs=1e-15)
    assert terms["total"] == pytest.approx(4 * terms["mixture"])


def test_the_divergence_is_that_of_the_tempered_mixture_from_each_branch():
    mixture, branch = np.array([[3.0, 0.0]]), np.array([[0.0, 0.0]])
    p = softmax(np.array([1.0, 0.0]))
    expected = p[0] * np.log(p[0] / 0.5) + p[1] * np.log(p[1] / 0.5)
    assert mix_losses(mixture, branch[None], np.zeros((1, 2)))["kl"] == pytest.approx(expected)

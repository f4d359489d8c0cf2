"""The NumPy forms of the published models against what TensorFlow printed, and the stored outputs against the forms."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.published.golden import ROWS, STORED, compute_row
from tests.published.variables import VARIABLES

# From section H.5 of the 2018 reference, TensorFlow 1.8: P[0, :4], P[2, :2], the sum of P and the regularisation.
PRINTED = {
    "LogisticModel": (
        (0.413498, 0.584099, 0.542807, 0.316058),
        (0.464400, 0.611762),
        11.249157,
        3.487535e-06,
    ),
    "MoeModel m=2": (
        (0.381692, 0.233652, 0.287598, 0.337808),
        (0.324836, 0.404173),
        6.426927,
        1.805783e-05,
    ),
    "MoeModel m=2 prob-gating(prob)": (
        (0.228748, 0.098588, 0.123928, 0.165987),
        (0.196880, 0.169711),
        3.133305,
        1.805783e-05,
    ),
    "FrameLevelLogisticModel": (
        (0.480358, 0.602671, 0.503044, 0.402813),
        (0.419946, 0.643123),
        10.982385,
        3.487535e-06,
    ),
    "NetVLADModelLF K=8 H=6 norelu gating MoE prob-gating": (
        (0.239117, 0.127833, 0.138359, 0.131014),
        (0.239123, 0.127714),
        3.090807,
        9.698886e-08,
    ),
    "GatedDbofModelLF K=16 H=6 norelu MoE": (
        (0.492596, 0.345159, 0.327638, 0.276305),
        (0.492656, 0.345194),
        6.537383,
        9.698886e-08,
    ),
    "LstmModel 2x8 +Logistic": (
        (0.472401, 0.583604, 0.520590, 0.339519),
        (0.443931, 0.577560),
        10.841402,
        2.377438e-08,
    ),
}
MODELS = json.loads(STORED.read_text())["models"]


@pytest.mark.parametrize("title", PRINTED)
def test_the_form_gives_what_tensorflow_printed(title):
    first, last, total, regularization = PRINTED[title]
    row = MODELS[title]
    probabilities = np.array(row["probabilities"])
    np.testing.assert_allclose(probabilities[0, :4], first, rtol=1e-4)
    np.testing.assert_allclose(probabilities[2, :2], last, rtol=1e-4)
    assert probabilities.sum() == pytest.approx(total, rel=1e-3)
    assert row["regularization"] == pytest.approx(regularization, rel=1e-3)


@pytest.mark.parametrize("title", ROWS)
def test_the_stored_outputs_are_those_of_the_form(title):
    row, stored = compute_row(title), MODELS[title]
    assert (row["mode"], row["c"]) == (stored["mode"], stored["c"])
    np.testing.assert_allclose(row["probabilities"], stored["probabilities"], rtol=1e-7, atol=1e-9)
    assert row["regularization"] == pytest.approx(stored["regularization"], rel=1e-7)


def test_every_model_with_listed_variables_has_a_stored_output():
    assert list(MODELS) == list(ROWS) == list(VARIABLES)


def test_the_table_lists_each_variable_of_the_33_models():
    assert (len(VARIABLES), sum(len(variables) for variables in VARIABLES.values())) == (33, 517)

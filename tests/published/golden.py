"""The golden outputs of the published models: the recipe of section H.5 of the 2018 reference, and all its rows.

python -m tests.published.golden     writes tests/golden/published_models.json again
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.published import heads, pooling, recurrent
from tests.published.heads import LOGISTIC, MOE, Head
from tests.published.layers import Array
from tests.published.variables import VARIABLES

STORED = Path(__file__).parents[1] / "golden" / "published_models.json"
ORIGIN = (
    "Computed by `python -m tests.published.golden`: NumPy forms in float64 of the formulas of the 2018 reference, "
    "with the recipe of its section H.5, where the outputs of TensorFlow 1.8 for seven of these models are printed."
)
PROB_GATED = Head(prob_gating="prob")


@dataclass(frozen=True)
class Row:
    """One model of the table: its form, the mode of its input, its options and the scale of its variables.

    The scale is 0.1 where 0.3 drives relu6 or the sigmoid to their limits.
    """

    form: Any
    mode: str
    options: dict[str, Any] = field(default_factory=dict)
    c: float = 0.3


ROWS = {
    "LogisticModel": Row(pooling.video_level, "v", {"head": LOGISTIC}),
    "MoeModel m=2": Row(pooling.video_level, "v"),
    "MoeModel m=3 lowrank=4": Row(pooling.video_level, "v", {"head": Head(num_mixtures=3)}),
    "MoeModel m=2 prob-gating(prob)": Row(pooling.video_level, "v", {"head": PROB_GATED}),
    "MoeModel m=2 prob-gating(prob) remove_diag": Row(
        pooling.video_level, "v", {"head": Head(prob_gating="prob", remove_diagonal=True)}
    ),
    "MoeModel m=2 prob-gating(input)": Row(pooling.video_level, "v", {"head": Head(prob_gating="input")}),
    "FrameLevelLogisticModel": Row(pooling.frame_logistic, "m", {"head": LOGISTIC}),
    "DbofModel relu6 max +Logistic": Row(pooling.dbof, "f", {"activation": "relu6", "head": LOGISTIC}, c=0.1),
    "DbofModel relu6 average +Logistic": Row(
        pooling.dbof, "f", {"activation": "relu6", "pooling": "average", "head": LOGISTIC}, c=0.1
    ),
    "NetVLADModelLF K=8 H=6 norelu gating MoE prob-gating": Row(
        pooling.netvlad, "f", {"use_relu": False, "gating": True, "head": PROB_GATED}
    ),
    "NetVLADModelLF K=8 H=6 relu nogating MoE": Row(pooling.netvlad, "f"),
    "NetVLADModelLF lightvlad K=8 H=6 norelu gating MoE prob-gating": Row(
        pooling.netvlad, "f", {"use_relu": False, "gating": True, "head": PROB_GATED}
    ),
    "NetVLADModelLF K=8 H=6 norelu gating remove_diag Logistic": Row(
        pooling.netvlad, "f", {"use_relu": False, "gating": True, "gating_remove_diagonal": True, "head": LOGISTIC}
    ),
    "NetFVModelLF K=8 H=6 norelu uncoupled gating MoE prob-gating": Row(
        pooling.netfv, "f", {"use_relu": False, "gating": True, "head": PROB_GATED}
    ),
    "NetFVModelLF K=8 H=6 relu coupled(0.01) MoE": Row(pooling.netfv, "f"),
    "SoftDbofModelLF K=16 H=6 norelu MoE": Row(pooling.soft_dbof, "f", {"use_relu": False}),
    "SoftDbofModelLF K=16 H=6 norelu maxpool MoE": Row(pooling.soft_dbof, "f", {"use_relu": False, "max_pool": True}),
    "GatedDbofModelLF K=16 H=6 norelu MoE": Row(pooling.gated_dbof, "f", {"use_relu": False}),
    "GatedDbofModelLF K=16 H=6 relu fc_dimred MoE": Row(pooling.gated_dbof, "f"),
    "GatedDbofModelLF K=16 no fc_dimred MoE": Row(pooling.gated_dbof, "f"),
    "LstmModel 2x8 +Logistic": Row(recurrent.lstm_model, "m", {"head": LOGISTIC}),
    "Lstmbidirect 8 +Logistic": Row(recurrent.bidirectional_lstm, "m", {"head": LOGISTIC}),
    "GRUbidirect 8 +Logistic": Row(recurrent.bidirectional_gru, "m", {"head": LOGISTIC}),
    "GRUbidirect 8 gating MoE prob-gating": Row(recurrent.bidirectional_gru, "m", {"gating": True, "head": PROB_GATED}),
    "GRUbidirect_branchedBN +Logistic": Row(recurrent.branched_gru, "m", {"head": recurrent.BRANCHED_HEAD}, c=0.1),
    "attention_frames_v0": Row(pooling.attention_frames, "m", {"head": pooling.ATTENTION_HEAD}, c=0.1),
    "G LogisticModel": Row(pooling.video_level, "v", {"head": LOGISTIC}),
    "G MoeModel m=2": Row(pooling.video_level, "v"),
    "G FrameLevelLogisticModel": Row(pooling.frame_logistic, "m", {"head": LOGISTIC}),
    "G DbofModel sigmoid max K=16 H=6 MoE": Row(pooling.dbof, "f"),
    "G DbofModel relu6 average K=16 H=6 MoE": Row(
        pooling.dbof, "f", {"activation": "relu6", "pooling": "average"}, c=0.1
    ),
    "G DbofModel relu6 max nobn K=16 H=6 Logistic": Row(pooling.dbof, "f", {"activation": "relu6", "head": LOGISTIC}),
    "G LstmModel 2x8 MoE": Row(recurrent.lstm_model, "m"),
}


def published_variable(name: str, shape: tuple[int, ...], c: float) -> Array:
    """Returns the float32 values that the recipe gives to a variable."""
    values = (c * np.random.RandomState(zlib.crc32(name.encode())).randn(*shape)).astype(np.float32)
    last = name.rpartition("/")[2]
    if last == "moving_variance":
        return np.float32(0.5) + np.abs(values)
    return np.float32(1.0) + values if last in ("gamma", "covar_weights") else values


def published_variables(title: str, c: float) -> dict[str, Array]:
    """Returns the variables of a model of the table."""
    return {name: published_variable(name, shape, c) for name, shape in VARIABLES[title].items()}


@cache
def normalised_frames() -> Array:
    frames = np.random.RandomState(0).randn(3, 300, 1152).astype(np.float32)
    return frames / np.sqrt(np.maximum(np.square(frames).sum(axis=-1, keepdims=True), np.float32(1e-12)))


def published_frames(mode: str) -> tuple[Array, Array]:
    """Returns the frames [3, T, 1152] and their numbers: `v` the first alone, `f` all 300, `m` 300, 120 and 7."""
    frames = normalised_frames().copy()
    if mode == "v":
        return frames[:, :1], np.ones(3, np.int64)
    num_frames = np.array({"f": (300, 300, 300), "m": (300, 120, 7)}[mode])
    for clip, n in zip(frames, num_frames, strict=True):
        clip[n:] = 0.0
    return frames, num_frames


def compute_row(title: str) -> dict[str, Any]:
    """Returns the mode, the scale c, the probabilities [3, 7] and the regularisation of a model of the table."""
    row = ROWS[title]
    variables = {name: value.astype(np.float64) for name, value in published_variables(title, row.c).items()}
    probabilities = row.form(variables, *published_frames(row.mode), **row.options)
    return {
        "mode": row.mode,
        "c": row.c,
        "probabilities": np.round(probabilities, 10).tolist(),
        "regularization": float(f"{heads.regularization(variables, row.options.get('head', MOE)):.10g}"),
    }


def main() -> None:
    models = {title: compute_row(title) for title in ROWS}
    lines = ",\n".join(f"{json.dumps(title)}: {json.dumps(row)}" for title, row in models.items())
    STORED.write_text(f'{{"origin": {json.dumps(ORIGIN)},\n"models": {{\n{lines}\n}}}}\n')
    print(STORED)


if __name__ == "__main__":
    main()

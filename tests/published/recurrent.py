"""The published recurrent models in NumPy: 2018 B.5, B.10 to B.12, 2019 B.6 and B.9. All end at the last real frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tests.published.heads import MOE, Head, classify
from tests.published.layers import Array, Variables, batch_norm, clips, dense, gru, lstm, relu6, scoped
from tests.published.pooling import SIZES, dbof_hidden, gate_context

BRANCHED_HEAD = Head("logistic", scope="fully_connected_2")


def layers(variables: Variables, scope: str) -> list[dict[str, Array]]:
    """Returns the variables of the cells of one MultiRNNCell, lowest first."""
    found: list[dict[str, Array]] = []
    while cell := scoped(variables, f"{scope}/multi_rnn_cell/cell_{len(found)}"):
        found.append(cell)
    assert found, f"{scope} has no cell among {', '.join(variables)}"
    return found


def stacked_lstm(variables: Variables, scope: str, clip: Array) -> list[tuple[Array, Array]]:
    """Returns the last (c, h) of every layer."""
    states = []
    for cell in layers(variables, scope):
        clip, c, h = lstm(cell, clip)
        states.append((c, h))
    return states


def both_ways(variables: Variables, scope: str, clip: Array) -> Array:
    """Returns the outputs [n, 2h] of a bidirectional layer of either cell: forward, then backward."""
    forward, backward = (layers(variables, f"{scope}bidirectional_rnn/{way}")[0] for way in ("fw", "bw"))
    run = gru if "gru_cell/gates/kernel" in forward else lstm
    return np.concatenate([run(forward, clip)[0], run(backward, clip[::-1])[0][::-1]], axis=1)


def gru_state(variables: Variables, scope: str, clip: Array) -> Array:
    """2018 B.11: a bidirectional GRU, then a GRU; its last state."""
    return gru(layers(variables, f"{scope}rnn")[0], both_ways(variables, scope, clip))[1]


def lstm_model(variables: Variables, frames: Array, num_frames: Sequence[int], *, head: Head = MOE) -> Array:
    """2018 B.5 LstmModel: the top layer's output h at the last frame."""
    tops = [stacked_lstm(variables, "rnn", clip)[-1][1] for clip in clips(frames, num_frames)]
    return classify(variables, np.stack(tops), head)


def full_state(variables: Variables, scope: str, clip: Array) -> Array:
    """2019 section 0: [c1; h1; c2; h2] of a stack of LSTMs."""
    return np.concatenate([part for state in stacked_lstm(variables, scope, clip) for part in state])


def lstm_pair(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    drop_last_even: bool = False,
    head: Head = MOE,
) -> Array:
    """2019 B.6 LstmModelPair: the mean of the full states of one stack on even and one on odd frames.

    Variables: even/rnn/multi_rnn_cell/cell_I/basic_lstm_cell/{kernel,bias}, the same below odd/, and the head's.
    With `drop_last_even` both read n // 2 frames (2019 F.3-14), so that the last frame of an odd number is lost.
    """
    states = []
    for clip in clips(frames, num_frames):
        even, odd = clip[0::2], clip[1::2]
        even = even[: len(clip) // 2] if drop_last_even else even
        states.append((full_state(variables, "even/rnn", even) + full_state(variables, "odd/rnn", odd)) / 2.0)
    return classify(variables, np.stack(states), head)


def bidirectional_lstm(variables: Variables, frames: Array, num_frames: Sequence[int], *, head: Head = MOE) -> Array:
    """2018 B.10, 2019 B.6 Lstmbidirect: the second layer's cell state c at the last frame."""
    states = []
    for clip in clips(frames, num_frames):
        states.append(lstm(layers(variables, "rnn")[0], both_ways(variables, "", clip))[1])
    return classify(variables, np.stack(states), head)


def bidirectional_gru(
    variables: Variables, frames: Array, num_frames: Sequence[int], *, gating: bool = False, head: Head = MOE
) -> Array:
    """2018 B.11, 2019 B.6 GRUbidirect; its gate has a bias and no batch norm."""
    states = np.stack([gru_state(variables, "", clip) for clip in clips(frames, num_frames)])
    return classify(variables, gate_context(variables, states) if gating else states, head)


def branched_gru(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    gating: bool = False,
    feature_sizes: tuple[int, int] = SIZES,
    head: Head = BRANCHED_HEAD,
) -> Array:
    """2018 B.12 GRUbidirect_branchedBN; with `gating` the gate of B.11 on the 1152, which was broken (2018 G.2-3)."""
    states = []
    for clip in clips(frames, num_frames):
        halves = (clip[:, : feature_sizes[0]], clip[:, feature_sizes[0] :])
        parts = []
        for name, half, fc in zip(("video", "audio"), halves, ("", "_1"), strict=True):
            rows = dense(variables, f"fully_connected{fc}", batch_norm(variables, f"{name}_input_bn", half))
            parts.append(gru_state(variables, f"{name}/", relu6(batch_norm(variables, f"{name}_cluster_bn", rows))))
        states.append(np.concatenate(parts))
    hidden = np.stack(states)
    return classify(variables, gate_context(variables, hidden) if gating else hidden, head)


def gru_dbof_hybrid(variables: Variables, frames: Array, num_frames: Sequence[int], *, head: Head = MOE) -> Array:
    """2019 B.6 GRU_DBoF_hybrid: [state of GRUbidirect; hidden layer of DbofModel (relu6, max)], then the classifier.

    Variables: those of GRUbidirect, of DbofModel with batch norm, and the head's.
    """
    states = np.stack([gru_state(variables, "", clip) for clip in clips(frames, num_frames)])
    bags = dbof_hidden(variables, frames, num_frames, pooling="max", activation="relu6")
    return classify(variables, np.concatenate([states, bags], axis=1), head)


def hierarchical_code(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    num_blocks: int = 20,
    every_n: int = 1,
    max_frames: int = 300,
    floor_num_frames: bool = False,
) -> Array:
    """2019 B.9: the video codes [B, 4h], the full last state of the upper stack over the blocks' full states.

    Of the frames 0, k, 2k, ... below `max_frames` every block holds as many, ceil(ceil(max_frames / k) / num_blocks).
    With `floor_num_frames` a clip of n frames is taken to have floor(n / k) of them (2019 F.4-5), else all ceil(n / k).
    """
    size = math.ceil(math.ceil(max_frames / every_n) / num_blocks)
    codes = []
    for clip in clips(frames, num_frames):
        chosen = clip[:max_frames][::every_n]
        chosen = chosen[: len(clip) // every_n] if floor_num_frames else chosen
        blocks = [chosen[first : first + size] for first in range(0, len(chosen), size)]
        lower = np.array([full_state(variables, "L1/rnn", block) for block in blocks])
        codes.append(full_state(variables, "L2/rnn", lower))
    return np.stack(codes)


def hierarchical_lstm(
    variables: Variables,
    frames: Array,
    num_frames: Sequence[int],
    *,
    num_blocks: int = 20,
    every_n: int = 1,
    max_frames: int = 300,
    floor_num_frames: bool = False,
    head: Head = MOE,
) -> Array:
    """2019 B.9 HierarchicalLstmModel: teacher (20 blocks of every frame) and student (5 blocks of every n-th frame).

    Variables: L1/rnn/multi_rnn_cell/cell_I/basic_lstm_cell/{kernel,bias} of the stack over a block's frames, the same
    below L2/ of the stack over the blocks, and the head's.
    """
    code = hierarchical_code(
        variables,
        frames,
        num_frames,
        num_blocks=num_blocks,
        every_n=every_n,
        max_frames=max_frames,
        floor_num_frames=floor_num_frames,
    )
    return classify(variables, code, head)

"""The published classifiers of one vector a video, in NumPy: logistic, and mixtures of experts with all their gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.published.layers import Array, Variables, batch_norm, dense, sigmoid, softmax


@dataclass(frozen=True)
class Head:
    """Which classifier stands on a model, and the scope of a logistic one."""

    name: str = "moe"  # or "logistic"
    num_mixtures: int = 2
    prob_gating: str = "none"  # or "prob" or "input"
    remove_diagonal: bool = False
    scope: str = "fully_connected"


MOE, LOGISTIC = Head(), Head("logistic")


def classify(variables: Variables, x: Array, head: Head = MOE) -> Array:
    """Returns the probabilities [B, V] of the videos' vectors [B, D]."""
    if head.name == "logistic":
        return sigmoid(dense(variables, head.scope, x))
    return moe(variables, x, head)


def moe(variables: Variables, x: Array, head: Head = MOE, *, gate_input: Array | None = None) -> Array:
    """2018 B.2 and B.6 MoeModel; low-rank gates where the variables have gates1 and gates2.

    The gates read the experts' input unless they have one of their own (2019 B.7).

    Variables: gates/weights [D, V(M+1)] or gates1/weights [D, r] and gates2/weights [r, V(M+1)]; experts/weights
    [D, VM], experts/biases; with probability gating gating_prob_weights [V or D, V] and gating_prob_bn.
    """
    M = head.num_mixtures
    gate_input = x if gate_input is None else gate_input
    if "gates1/weights" in variables:
        gate_logits = dense(variables, "gates2", dense(variables, "gates1", gate_input))
    else:
        gate_logits = dense(variables, "gates", gate_input)
    expert_logits = dense(variables, "experts", x)
    num_classes = expert_logits.shape[1] // M
    probabilities = np.zeros((len(x), num_classes))
    for v in range(num_classes):
        gates = softmax(gate_logits[:, v * (M + 1) : (v + 1) * (M + 1)])
        experts = sigmoid(expert_logits[:, v * M : (v + 1) * M])
        for m in range(M):  # the last gate is the one that predicts 0
            probabilities[:, v] += gates[:, m] * experts[:, m]
    return gate_probabilities(variables, x, probabilities, head)


def gate_probabilities(variables: Variables, x: Array, probabilities: Array, head: Head) -> Array:
    """2018 B.6: P * sigmoid(BN(P Wp)), or of x Wp; the diagonal belongs to P Wp alone (2018 G.2-5)."""
    if head.prob_gating == "none":
        return probabilities
    weights = variables["gating_prob_weights"]
    logits = (probabilities if head.prob_gating == "prob" else x) @ weights
    if head.remove_diagonal and head.prob_gating == "prob":
        logits = logits - np.diag(weights) * probabilities
    return probabilities * sigmoid(batch_norm(variables, "gating_prob_bn", logits))


def mix_logits(variables: Variables, x: Array, *, num_mixtures: int, per_class: bool, epsilon: float = 1e-5) -> Array:
    """2019 B.4, the head of the 2019 models: logit_v = sum over m < M of gate_m * expert_(v, m); returns the logits.

    The last gate is that of a logit of 0. Variables: experts_bn, experts/weights [D, VM] (column v * M + m),
    experts/biases; gates_bn, gates/weights [D, V(M+1)] (column v * (M+1) + m) per class, else [D, M+1], gates/biases.
    """
    M = num_mixtures
    expert_logits = dense(variables, "experts", batch_norm(variables, "experts_bn", x, epsilon))
    gate_logits = dense(variables, "gates", batch_norm(variables, "gates_bn", x, epsilon))
    num_classes = expert_logits.shape[1] // M
    logits = np.zeros((len(x), num_classes))
    for v in range(num_classes):
        first = v * (M + 1) if per_class else 0
        gates = softmax(gate_logits[:, first : first + M + 1])
        for m in range(M):
            logits[:, v] += gates[:, m] * expert_logits[:, v * M + m]
    return logits


def regularization(variables: Variables, head: Head = MOE, l2: float = 1e-8, **_: Any) -> float:
    """2018 B.0: l2 * sum(W^2) / 2 over the classifier's matrices; nothing else of the 2018 models is regularised."""
    names = [head.scope] if head.name == "logistic" else ["gates", "gates1", "gates2", "experts"]
    matrices = [variables[f"{name}/weights"] for name in names if f"{name}/weights" in variables]
    return l2 * sum(0.5 * float(np.square(matrix.astype(np.float64)).sum()) for matrix in matrices)

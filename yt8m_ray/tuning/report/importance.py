"""How much each searched key matters for being among the best trials, compared with chance."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator

from yt8m_ray.tuning.records import TrialRecord
from yt8m_ray.tuning.report.dimensions import Dimension, study_of

MIN_TRIALS = 15
NUM_BEST = 5  # the evaluator's authors advise at least 5 trials above its quantile
BEST_SHARE = 0.25  # Optuna's 0.1 is 6 of 60 trials, too few to learn from

_NUM_SHUFFLES = 100
_CHANCE_QUANTILE = 0.99


@dataclass(frozen=True)
class Importance:
    """The importance of one key."""

    key: str
    share: float  # of all keys' importance, from 0 to 1
    chance: float  # the share that 99 of 100 random orders of the same scores stay below
    num_trials: int  # in which the key was chosen

    @property
    def is_told(self) -> bool:
        """Whether it is more than chance."""
        return self.share > self.chance


def countable(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Returns the completed and pruned trials with a score."""
    # A scheduler stops trials that are not good enough; a user or the budget may stop any.
    return [record for record in records if record.status in ("completed", "pruned") and record.scores]


def num_best(num_trials: int) -> int:
    """Returns how many of the trials count as the best."""
    return max(NUM_BEST, math.ceil(BEST_SHARE * num_trials))


def measure_importance(records: Sequence[TrialRecord], dimensions: Sequence[Dimension]) -> list[Importance]:
    """Returns the importance of each key by PED-ANOVA, the highest first; empty for too few or equal trials.

    Source: arXiv:2304.10255, and arXiv:2601.20800 for keys with a condition.
    """
    # PED-ANOVA compares where the best trials lie with where all were tried. Only the order of scores counts, so a
    # trial that was pruned as not among the best can be compared with completed ones.
    trials = countable(records)
    scores = np.array([record.best_score for record in trials])
    if len(trials) < MIN_TRIALS or np.ptp(scores) == 0:
        return []
    study = study_of(trials, [dimension for dimension in dimensions if not dimension.distribution.single()])
    measured = _evaluate(study, scores)
    total = sum(measured.values())
    if total == 0:
        return []
    generator = np.random.default_rng(0)
    shuffles = [_evaluate(study, generator.permutation(scores)) for _ in range(_NUM_SHUFFLES)]
    return [
        Importance(
            key,
            share=value / total,
            chance=float(np.quantile([one[key] for one in shuffles], _CHANCE_QUANTILE)) / total,
            num_trials=sum(key in record.params for record in trials),
        )
        for key, value in sorted(measured.items(), key=lambda item: -item[1])
    ]


def _evaluate(study: optuna.Study, scores: np.ndarray) -> dict[str, float]:
    evaluator = PedAnovaImportanceEvaluator(target_quantile=num_best(len(scores)) / len(scores))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it looks for low values, and that few trials have some key
        return evaluator.evaluate(study, target=lambda trial: -float(scores[trial.number]))

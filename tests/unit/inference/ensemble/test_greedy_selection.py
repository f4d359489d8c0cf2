"""The greedy choice under limits, against brute force over all subsets of given tables of scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.ensemble.greedy_selection import Score, select_members

Array = np.ndarray
MakeTable = Callable[[np.random.Generator, int], Score]

CELF_BOUND = (1 - 1 / math.e) / 2


def best_of_all(score: Score, costs: Array, limits: Array) -> float:
    """Returns the best score of all subsets that fit."""
    subsets = np.array(list(itertools.product([False, True], repeat=len(costs))))[1:]
    fitting = subsets[(subsets @ costs <= limits).all(axis=1)]
    return max(score(frozenset(np.flatnonzero(subset).tolist())) for subset in fitting)


def additive(values: Sequence[float]) -> Score:
    return lambda chosen: sum(values[member] for member in sorted(chosen))


def additive_table(rng: np.random.Generator, num_members: int) -> Score:
    """A knapsack: what members are worth adds up."""
    return additive(rng.uniform(0.1, 1, num_members).tolist())


def coverage_table(rng: np.random.Generator, num_members: int) -> Score:
    """Diminishing returns: members answer for weighted sets of labels, and one answer for a label is enough."""
    weights, covers = rng.exponential(size=40), rng.random((num_members, 40)) < rng.uniform(0.1, 0.5)
    return lambda chosen: float(weights[covers[sorted(chosen)].any(axis=0)].sum())


def ensemble_table(rng: np.random.Generator, num_members: int) -> Score:
    """What a mean of models is like: 1 - the error of the mean, where members err in part together."""
    errors = rng.normal(size=(num_members, 60)) + rng.uniform(0.5, 2) * rng.normal(size=60)
    errors *= rng.uniform(0.7, 1.5, num_members)[:, None]
    scale = 0.3 / float(np.sqrt(np.square(errors).mean()))
    return lambda chosen: 1 - scale * float(np.sqrt(np.square(errors[sorted(chosen)].mean(axis=0)).mean()))


def lawless_table(rng: np.random.Generator, num_members: int) -> Score:
    """Every subset's score is drawn by itself: nothing of a set says anything of a larger one."""
    scores = rng.uniform(0.5, 1, 1 << num_members)
    return lambda chosen: float(scores[sum(1 << member for member in chosen)])


def random_costs(rng: np.random.Generator, num_members: int, num_limits: int) -> tuple[Array, Array]:
    """Returns costs within a factor of ten, and limits that leave room for a third to two thirds of all members."""
    costs = np.exp(rng.uniform(0, math.log(10), (num_members, num_limits)))
    return costs, costs.sum(axis=0) * rng.uniform(0.33, 0.67, num_limits)


def shares_of_the_optimum(make: MakeTable, num_limits: int, num_tables: int) -> Array:
    """Returns (score of the choice) / (best score of all) for random tables of 8 to 10 members."""
    shares = []
    for index in range(num_tables):
        rng = np.random.default_rng([num_limits, index])
        num_members = int(rng.integers(8, 11))
        score = make(rng, num_members)
        costs, limits = random_costs(rng, num_members, num_limits)
        found = select_members(score, costs, limits)
        assert (costs[list(found)].sum(axis=0) <= limits).all()
        shares.append(score(frozenset(found)) / best_of_all(score, costs, limits))
    return np.array(shares)


TABLES = [
    pytest.param(make, num_limits, id=f"{make.__name__}-{num_limits}")
    for make in (additive_table, coverage_table, ensemble_table)
    for num_limits in (1, 2)
]


@pytest.mark.parametrize(("make", "num_limits"), TABLES)
def test_the_choice_is_the_optimum_of_nearly_all_tables(make: MakeTable, num_limits: int) -> None:
    shares = shares_of_the_optimum(make, num_limits, num_tables=10)

    assert np.mean(shares > 1 - 1e-12) >= 0.9
    assert shares.min() >= 0.9


@pytest.mark.soak
@pytest.mark.parametrize(("make", "num_limits"), TABLES)
def test_the_choice_is_the_optimum_of_nearly_all_of_many_tables(make: MakeTable, num_limits: int) -> None:
    shares = shares_of_the_optimum(make, num_limits, num_tables=500)

    assert np.mean(shares > 1 - 1e-12) >= 0.97
    assert shares.min() >= 0.85


def test_of_lawless_tables_only_the_neighbourhood_is_promised() -> None:
    for index in range(20):
        rng = np.random.default_rng(index)
        score = lawless_table(rng, 8)
        costs, limits = random_costs(rng, 8, 1)

        found = select_members(score, costs, limits)

        assert score(frozenset(found)) == max(score(chosen) for chosen in neighbours(found, costs, limits))


def neighbours(found: Sequence[int], costs: Array, limits: Array) -> list[frozenset[int]]:
    """Returns the set and all that fit of those with one member more, one less or one exchanged."""
    chosen = frozenset(found)
    others = set(range(len(costs))) - chosen
    sets = [chosen, *(chosen | {other} for other in others), *(chosen - {one} for one in chosen)]
    sets += [chosen - {one} | {other} for one in chosen for other in others]
    return [other for other in sets if other and all(costs[sorted(other)].sum(axis=0) <= limits)]


@pytest.mark.parametrize("seed", range(40))
def test_with_diminishing_returns_and_one_limit_the_proven_bound_holds(seed: int) -> None:
    rng = np.random.default_rng([7, seed])
    score = coverage_table(rng, 8)
    costs = np.exp(rng.uniform(0, math.log(1000), (8, 1)))  # costs of very different sizes are the hard ones
    limits = np.array([rng.uniform(costs.min(), costs.sum())])

    found = frozenset(select_members(score, costs, limits))

    assert score(found) >= CELF_BOUND * best_of_all(score, costs, limits)


def test_many_small_members_beat_the_best_one_that_fills_the_limit() -> None:
    # By gain, the first member leaves room for no other; by gain per byte it never comes.
    values, num_bytes = [1.0, *[0.3] * 7], [100, *[10] * 7]

    found = select_members(additive(values), column(num_bytes), np.array([100.0]))

    assert found == (1, 2, 3, 4, 5, 6, 7)


def test_one_large_member_beats_a_small_one_of_more_gain_per_byte() -> None:
    # By gain per byte, the small member leaves no room for the large one; by gain it never comes.
    found = select_members(additive([0.02, 1.0]), column([1, 100]), np.array([100.0]))

    assert found == (1,)


def test_exchanging_one_for_one_repairs_a_first_choice_that_others_replace() -> None:
    # 0 is best alone, but 1 and 2 cover what it covers, and together they fit where 0 and one of them do not.
    table = {(0,): 0.60, (1,): 0.55, (2,): 0.54, (3,): 0.10, (0, 3): 0.65, (1, 3): 0.66, (2, 3): 0.60, (1, 2): 0.9}
    costs, limits = column([6, 5, 5, 2]), np.array([10.0])

    found = select_members(lambda chosen: table[tuple(sorted(chosen))], costs, limits)

    assert found == (1, 2)


def test_two_members_that_help_the_best_one_only_together_are_found() -> None:
    table = {(0,): 0.6, (1,): 0.5, (2,): 0.5, (0, 1): 0.6, (0, 2): 0.6, (1, 2): 0.5, (0, 1, 2): 0.9}

    found = select_members(lambda chosen: table[tuple(sorted(chosen))], column([1, 1, 1]), np.array([3.0]))

    assert found == (0, 1, 2)


def test_members_that_are_worth_nothing_but_all_together_are_missed() -> None:
    # As the search says of itself: on the way to {1, 2, 3} every set is worse than 0 alone.
    found = select_members(
        lambda chosen: 0.9 if chosen == {1, 2, 3} else 0.6 - 0.1 * len(chosen - {0}),
        column([1, 1, 1, 1]),
        np.array([4.0]),
    )

    assert found == (0,)


def test_two_that_fit_only_without_both_greedy_first_choices_are_found() -> None:
    # 0 has the most gain, 3 the most gain per byte; 1 and 2 fit only where neither is.
    found = select_members(additive([7.0, 5.5, 5.5, 1.3]), column([6, 5, 5, 1]), np.array([10.0]))

    assert found == (1, 2)


def test_what_does_not_fit_is_skipped_and_not_scored() -> None:
    def score(chosen: frozenset[int]) -> float:
        assert 0 not in chosen and chosen != {1, 2}
        return len(chosen) + 0.1 * min(chosen)

    found = select_members(score, column([11, 6, 5, 4]), np.array([10.0]))

    assert found == (2, 3)


def test_of_equal_scores_the_one_of_fewer_bytes_is_taken() -> None:
    costs = np.array([[5.0, 1.0], [3.0, 9.0], [4.0, 1.0]])

    found = select_members(lambda _: 0.5, costs, np.array([20.0, 20.0]))

    assert found == (1,)


def test_a_member_that_lowers_the_score_is_left_out_though_there_is_room() -> None:
    found = select_members(lambda chosen: 1.0 - 0.1 * len(chosen - {2}), column([1, 1, 1]), np.array([np.inf]))

    assert found == (2,)


def test_a_gain_that_is_no_larger_than_the_least_counts_for_nothing() -> None:
    score = additive([0.5, 0.001, 0.01])

    assert select_members(score, column([1, 1, 1]), np.array([9.0]), min_gain=0.001) == (0, 2)


def test_the_time_limit_holds_beside_the_byte_limit() -> None:
    costs = np.array([[1.0, 8.0], [8.0, 1.0], [1.0, 1.0]])

    assert select_members(additive([3.0, 2.0, 1.0]), costs, np.array([8.5, 8.5])) == (0,)
    assert select_members(additive([3.0, 2.0, 1.0]), costs, np.array([8.5, 9.0])) == (0, 2)
    assert select_members(additive([3.0, 2.0, 1.0]), costs, np.array([9.0, 9.0])) == (0, 1)


def test_one_member_is_taken_even_if_no_score_is_above_zero() -> None:
    assert select_members(lambda _: 0.0, column([2, 1]), np.array([5.0])) == (1,)


def test_limits_that_nothing_fits_are_told() -> None:
    with pytest.raises(ConfigError, match=r"no member fits the limits \[3.0\]; the smallest costs are 4"):
        select_members(additive([1.0, 1.0]), column([5, 4]), np.array([3.0]))


def test_no_set_is_scored_twice() -> None:
    asked: list[frozenset[int]] = []

    def score(chosen: frozenset[int]) -> float:
        asked.append(chosen)
        return float(len(chosen))

    select_members(score, column([1, 2, 3, 4]), np.array([7.0]))

    assert len(asked) == len(set(asked))


def column(num_bytes: Sequence[float]) -> Array:
    return np.array(num_bytes, float)[:, None]

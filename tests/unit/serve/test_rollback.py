"""Which model a rollback goes back to, after every order of changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from serve.operations.changes import RefusedError
from serve.release import plan as releases
from serve.release.plan import Release, ReleasePlan, Slot
from tests.support.replicas import Cluster, run


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "REPORT_INTERVAL_S", 0.005)


CHANGES: dict[str, Callable[[ReleasePlan], Awaitable[Release]]] = {
    "A": lambda plan: plan.promote(Slot("a", "A")),
    "B": lambda plan: plan.promote(Slot("b", "B")),
    "C": lambda plan: plan.promote(Slot("c", "C")),
    "copy of B": lambda plan: plan.promote(Slot("b2", "B2")),
    "the alias names B": lambda plan: plan.promote(Slot("b", "b"), followed="b"),
    "canary A": lambda plan: plan.set_canary(Slot("a", "A"), 0.5),
    "canary B": lambda plan: plan.set_canary(Slot("b", "B"), 0.5),
    "half": lambda plan: plan.set_share(0.5),
    "finish": lambda plan: plan.finish_canary(),
    "end": lambda plan: plan.set_share(0),
    "back": lambda plan: plan.roll_back(),
}


@pytest.mark.parametrize(
    ("changes", "answers"),
    [
        ("B, back", "va"),
        ("B, B, back", "va"),
        ("B, B, B, back", "va"),
        ("B, copy of B, back", "va"),
        ("B, the alias names B, back", "va"),
        ("B, C, C, back", "vb"),
        ("B, A, A, back", "vb"),
        ("B, back, A, back", "vb"),
        ("B, canary B, finish, back", "va"),
        ("B, canary B, half, finish, back", "va"),
        ("B, canary B, end, back", "va"),
        ("B, canary B, back, back", "va"),
        ("B, canary B, B, back", "va"),
        ("B, canary A, B, back", "va"),
        ("canary B, B, back", "va"),
        ("canary B, finish, B, back", "va"),
        ("canary B, finish, canary A, finish, back", "vb"),
        ("B, B, back, back", "vb"),
    ],
)
def test_a_rollback_goes_back_to_the_model_that_answered_before_and_was_another(changes: str, answers: str) -> None:
    async def test(cluster: Cluster) -> None:
        for change in changes.split(", "):
            await CHANGES[change](cluster.plan)
        assert cluster.versions == [answers] * 2

    run(test, "r1", "r2")


def test_the_model_that_answers_already_leaves_no_earlier_one_to_go_back_to() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.plan.promote(Slot("a", "A"))
        with pytest.raises(RefusedError, match="no earlier model"):
            await cluster.plan.roll_back()

    run(test, "r1")


def test_new_files_in_the_place_of_the_current_model_are_another_model() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.plan.promote(Slot("b", "B"))
        cluster.replicas[0].files["b"] = "vb2"
        release = await cluster.plan.promote(Slot("b", "B"))
        assert cluster.versions == ["vb2"]
        assert release.previous is not None and release.previous.version == "vb"

    run(test, "r1")

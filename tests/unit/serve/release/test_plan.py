"""The plan of releases with replicas that are a few lines each."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from serve.operations.changes import Canary, Promote, RefusedError, Rollback
from serve.release import plan as releases
from serve.release.plan import BusyError, Orders, Release, ReleasePlan, Report, Slot
from tests.support.replicas import Clock, Cluster, Replica, run


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "REPORT_INTERVAL_S", 0.005)


def test_a_promotion_changes_every_replica_and_rollback_goes_back() -> None:
    async def test(cluster: Cluster) -> None:
        assert cluster.versions == ["va", "va", "va"]
        release = await cluster.plan.promote(Slot("b", "B"))
        assert cluster.versions == ["vb", "vb", "vb"]
        assert (release.number, release.current.name) == (1, "B")
        await cluster.plan.roll_back()
        assert cluster.versions == ["va", "va", "va"]
        await cluster.plan.roll_back()
        assert cluster.versions == ["vb", "vb", "vb"]

    run(test, "r1", "r2", "r3")


def test_what_an_operator_asks_for_is_the_change_that_is_made() -> None:
    async def test(cluster: Cluster) -> None:
        plan = cluster.plan
        await plan.make(Canary("B", 0.25, "b"))
        assert (plan.release.canary.uri, plan.release.share) == ("b", 0.25)  # type: ignore[union-attr]
        await plan.make(Canary(share=0.5))
        assert plan.release.share == 0.5
        await plan.make(Promote())
        assert cluster.versions == ["vb"]
        await plan.make(Promote("C", "c"))
        assert cluster.versions == ["vc"] and plan.release.current.name == "C"
        status = await plan.make(Rollback())
        assert cluster.versions == ["vb"] and status == plan.status()
        with pytest.raises(RefusedError, match="there is no canary"):
            await plan.make(Canary())

    run(test, "r1")


@pytest.mark.parametrize("kind", [RefusedError, BusyError])
def test_a_refusal_crosses_a_process_boundary_with_its_reason(kind: type[RefusedError]) -> None:
    error = pickle.loads(pickle.dumps(kind("no such folder")))
    assert type(error) is kind and error.reason == "no such folder"


def test_nobody_switches_before_everybody_has_loaded() -> None:
    clock = Clock()

    async def main() -> None:
        plan = ReleasePlan("a", Slot("a", "a"), now=clock)
        fast, slow = Replica("fast"), Replica("slow")
        for replica in (fast, slow, fast, slow):
            replica.turn(plan)
        change = asyncio.create_task(plan.promote(Slot("b", "b")))
        for _ in range(20):
            await asyncio.sleep(0.001)
            fast.turn(plan)
        assert fast.version == "va" and "vb" in fast.loaded.values()
        for _ in range(3):  # the slow one reports what it has at its second turn
            slow.turn(plan)
            await asyncio.sleep(0.01)
        fast.turn(plan)
        slow.turn(plan)
        assert (fast.version, slow.version) == ("vb", "vb")
        for replica in (fast, slow):
            replica.turn(plan)
        await asyncio.wait_for(change, 5)

    asyncio.run(main())


def test_one_replica_that_cannot_load_a_model_refuses_it_for_all() -> None:
    async def test(cluster: Cluster) -> None:
        del cluster.replicas[1].files["b"]
        before = cluster.plan.release
        with pytest.raises(RefusedError, match="B: no model  in b, found None"):
            await cluster.plan.promote(Slot("b", "B"))
        assert cluster.plan.release == before
        assert "no model" in str(cluster.plan.status()["last_refusal"])
        assert cluster.versions == ["va", "va"]
        await cluster.plan.promote(Slot("c", "C"))  # the next one goes on as if nothing had been
        assert cluster.versions == ["vc", "vc"]

    run(test, "r1", "r2")


def test_replicas_that_find_different_files_in_one_place_refuse_it() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.replicas[1].files["b"] = "vb2"
        with pytest.raises(RefusedError, match="different files: vb, vb2"):
            await cluster.plan.promote(Slot("b", "B"))
        assert cluster.versions == ["va", "va"]

    run(test, "r1", "r2")


def test_a_replica_that_dies_during_a_change_is_waited_for_no_longer_than_its_last_sign_of_life() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.replicas.pop()
        await cluster.plan.promote(Slot("b", "B"))
        assert cluster.versions == ["vb"]
        assert list(cluster.plan.living) == ["r1"]
        assert len(cluster.plan.status()["replicas"]) == 1  # type: ignore[arg-type]

    run(test, "r1", "r2")


def test_without_a_replica_nothing_is_promoted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()

    async def main() -> None:
        plan = ReleasePlan("a", Slot("a", "a"), now=clock)
        change = asyncio.create_task(plan.promote(Slot("b", "B")))
        await asyncio.sleep(0.01)
        clock.seconds += releases.LOADING_TIMEOUT_S
        with pytest.raises(RefusedError, match="not all replicas had loaded it within 600 s"):
            await change

    asyncio.run(main())


def test_a_replica_that_joins_answers_with_what_the_others_answer_with() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.plan.promote(Slot("b", "B"))
        cluster.replicas.append(Replica("r2"))
        await cluster.turns()
        assert cluster.versions == ["vb", "vb"]

    run(test, "r1")


def test_a_replica_that_does_not_switch_is_told_of_and_the_change_stands() -> None:
    clock = Clock()

    async def main() -> None:
        plan = ReleasePlan("a", Slot("a", "a"), now=clock)
        replica = Replica("r1")
        replica.turn(plan)
        replica.turn(plan)
        change = asyncio.create_task(plan.promote(Slot("b", "B")))
        await asyncio.sleep(0.01)
        replica.turn(plan)
        plan.report("r1", Report("a", replica.release, dict(replica.loaded)))
        await asyncio.sleep(0.02)
        clock.seconds += releases.LOADING_TIMEOUT_S
        assert (await asyncio.wait_for(change, 5)).current.name == "B"

    asyncio.run(main())


def test_a_manager_made_anew_takes_over_the_newest_release_that_is_reported() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.plan.promote(Slot("b", "B"), followed="models:/b/2")
        await cluster.plan.promote(Slot("c", "C"))
        known = cluster.plan.release
        cluster.plan = ReleasePlan("a", Slot("a", "a"), now=cluster.clock)
        await cluster.turns()
        assert cluster.plan.release == known and cluster.plan.release.followed == "models:/b/2"
        assert cluster.versions == ["vc", "vc"]
        await cluster.plan.roll_back()
        assert cluster.versions == ["vb", "vb"]

    run(test, "r1", "r2")


def test_a_manager_made_anew_moves_nobody_though_the_alias_moved_meanwhile() -> None:
    async def test(cluster: Cluster) -> None:
        before = cluster.replicas[0].release
        assert before.number == 0
        cluster.plan = ReleasePlan("a", Slot("b", "a"), now=cluster.clock)
        await cluster.turns()
        assert cluster.versions == ["va", "va"]
        assert cluster.plan.release == before and cluster.plan.release.followed == "a"

    run(test, "r1", "r2")


def test_a_model_of_an_earlier_manager_is_never_taken_for_one_of_this_manager() -> None:
    clock = Clock()
    earlier, later = ReleasePlan("a", Slot("a", "a"), now=clock), ReleasePlan("a", Slot("a", "a"), now=clock)
    assert len({earlier.release.current.id, later.release.current.id, Slot("b", "b").id, Slot("b", "b").id}) == 4


def test_a_canary_gets_its_share_and_share_0_ends_it() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.plan.set_canary(Slot("b", "B"), 0.1)
        release = cluster.replicas[0].release
        assert release.canary is not None
        assert (release.current.uri, release.canary.uri, release.share) == ("a", "b", 0.1)
        await cluster.plan.set_share(0.5)
        assert cluster.replicas[1].release.share == 0.5
        ended = await cluster.plan.set_share(0)
        assert (ended.current.uri, ended.canary, ended.share) == ("a", None, 0.0)
        assert cluster.replicas[0].release == ended
        with pytest.raises(RefusedError, match="there is no canary"):
            await cluster.plan.set_share(0.2)

    run(test, "r1", "r2")


def test_a_canary_is_finished_or_rolled_back() -> None:
    async def test(cluster: Cluster) -> None:
        with pytest.raises(RefusedError, match="there is no canary"):
            await cluster.plan.finish_canary()
        await cluster.plan.set_canary(Slot("b", "B"), 0.1)
        await cluster.plan.roll_back()
        assert cluster.versions == ["va", "va"] and cluster.replicas[0].release.canary is None
        await cluster.plan.set_canary(Slot("b", "B"), 0.1)
        finished = await cluster.plan.finish_canary()
        assert cluster.versions == ["vb", "vb"] and finished.canary is None and finished.share == 0
        await cluster.plan.roll_back()
        assert cluster.versions == ["va", "va"]

    run(test, "r1", "r2")


def test_a_promotion_past_a_canary_ends_it() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.plan.set_canary(Slot("b", "B"), 0.1)
        release = await cluster.plan.promote(Slot("c", "C"))
        assert release.canary is None and release.previous is not None and release.previous.uri == "a"

    run(test, "r1")


def test_without_an_earlier_model_there_is_no_rollback() -> None:
    async def test(cluster: Cluster) -> None:
        with pytest.raises(RefusedError, match="no earlier model"):
            await cluster.plan.roll_back()

    run(test, "r1")


def test_a_rollback_to_a_place_that_holds_another_model_by_now_is_refused() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.plan.promote(Slot("b", "B"))
        cluster.replicas[0].files["a"] = "va2"
        with pytest.raises(RefusedError, match="a: no model va in a, found va2"):
            await cluster.plan.roll_back()
        assert cluster.versions == ["vb"]
        cluster.replicas[0].files["a"] = "va"  # once it is mended, the same command works
        await cluster.plan.roll_back()
        assert cluster.versions == ["va"]

    run(test, "r1")


def test_two_changes_at_once_are_one_too_many() -> None:
    async def test(cluster: Cluster) -> None:
        first = asyncio.create_task(cluster.plan.promote(Slot("b", "B")))
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="another change is under way"):
            await cluster.plan.promote(Slot("c", "C"))
        await first
        assert cluster.versions == ["vb"]

    run(test, "r1")


def test_a_change_that_is_given_up_leaves_everything_as_it_was() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.replicas.append(Replica("stuck"))
        cluster.replicas[1].turn = lambda plan: plan.report(  # type: ignore[method-assign, assignment]
            "stuck", Report("a", cluster.replicas[0].release)
        )
        await cluster.turns()
        change = asyncio.create_task(cluster.plan.promote(Slot("b", "B")))
        await cluster.turns()
        assert cluster.plan.status()["candidate"] is not None
        change.cancel()
        await asyncio.wait([change])
        assert cluster.plan.status()["candidate"] is None
        assert cluster.replicas[0].version == "va"
        cluster.replicas.pop()
        await cluster.plan.promote(Slot("c", "C"))

    run(test, "r1")


def test_replicas_of_another_configuration_are_neither_counted_nor_told_anything() -> None:
    async def test(cluster: Cluster) -> None:
        other = Release(9, Slot("b", "b"))
        orders = cluster.plan.report("old", Report("b", other, metrics="of old"))
        assert orders == Orders(other)
        assert cluster.plan.release.number == 0 and list(cluster.plan.living) == ["r1"]
        await cluster.plan.promote(Slot("c", "C"))

    run(test, "r1")


def test_the_numbers_are_those_of_the_other_living_replicas() -> None:
    async def test(cluster: Cluster) -> None:
        assert [report.metrics for report in cluster.plan.other_reports("r2")] == ["of r1\n", "of r3\n"]

    run(test, "r1", "r2", "r3")


def test_a_replica_that_is_gone_is_forgotten() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.replicas.pop()
        cluster.clock.seconds += 10
        await cluster.turns()
        assert list(cluster.plan.living) == ["r1"]

    run(test, "r1", "r2")

"""A replica that follows: real models, a plan in the same process, no Ray."""

from __future__ import annotations

import asyncio
import gc
import shutil
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from serve.model.hosted_model import HostedModel
from serve.operations.changes import RefusedError
from serve.operations.metrics import Metrics
from serve.release import plan as releases
from serve.release import replica as following
from serve.release.plan import Orders, ReleasePlan, Report, Slot
from serve.release.replica import ManagerUnavailableError, ReplicaReleases
from tests.support.tiny import save_checkpoint_of


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {name: str(save_checkpoint_of(folder / name, seed=seed)) for seed, name in enumerate("abc")}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (following, releases):
        monkeypatch.setattr(module, "REPORT_INTERVAL_S", 0.01)


class Office:
    """The release manager as replicas reach it: it can be away."""

    def __init__(self, plan: ReleasePlan) -> None:
        self.plan = plan
        self.is_away = False
        self.num_asked = 0
        self.followers: list[ReplicaReleases] = []
        self.metrics: list[Metrics] = []

    async def hire(self, configured: str, load: Callable[[str], HostedModel] = HostedModel.load) -> ReplicaReleases:
        name = f"r{len(self.followers)}"

        async def ask(report: Report) -> Orders:
            await asyncio.sleep(0)
            self.num_asked += 1
            if self.is_away:
                raise ManagerUnavailableError("gone")
            return self.plan.report(name, report)

        self.metrics.append(Metrics(name))
        self.followers.append(ReplicaReleases(configured, ask, load, self.metrics[-1]))
        await self.followers[-1].start()
        return self.followers[-1]


def run(place: str, test: Callable[[Office], Awaitable[None]]) -> None:
    async def main() -> None:
        office = Office(ReleasePlan(place, Slot(place, place)))
        try:
            await asyncio.wait_for(test(office), 60)
        finally:
            for replica in office.followers:
                await replica.stop()

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def version(place: str) -> str:
    return HostedModel.load(place).version


def test_replicas_change_their_models_together_and_drop_the_old_one(models: dict[str, str]) -> None:
    async def test(office: Office) -> None:
        followers = [await office.hire(models["a"]) for _ in range(2)]
        assert all(replica.is_following for replica in followers)
        gone = weakref.ref(followers[0].host.current.predictor.model)
        gc.collect()
        gc.freeze()  # as Ray Serve does after the start: what only the collector could free stays for good
        try:
            await office.plan.promote(Slot(models["b"], "B"))
            assert [replica.host.current.version for replica in followers] == [version(models["b"])] * 2
            await until(lambda: gone() is None)
        finally:
            gc.unfreeze()

    run(models["a"], test)


def test_a_canary_is_loaded_beside_the_current_model(models: dict[str, str]) -> None:
    async def test(office: Office) -> None:
        replica = await office.hire(models["a"])
        await office.plan.set_canary(Slot(models["b"], "B"), 0.25)
        host = replica.host
        assert host.canary is not None
        assert (host.current.version, host.canary.version) == (version(models["a"]), version(models["b"]))
        assert host.canary_share == 0.25
        text = office.metrics[0].text()
        assert 'model="B"' in text and f'version="{version(models["a"])}"' in text

    run(models["a"], test)


def test_a_damaged_model_is_refused_and_the_old_one_answers(models: dict[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(models["b"], broken)
    (weights,) = broken.glob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")

    async def test(office: Office) -> None:
        followers = [await office.hire(models["a"]) for _ in range(2)]
        for place in (broken, tmp_path / "nothing"):
            with pytest.raises(RefusedError):
                await office.plan.promote(Slot(str(place), "B"))
        assert all(replica.is_following for replica in followers)
        assert {replica.host.current.version for replica in followers} == {version(models["a"])}

    run(models["a"], test)


@pytest.mark.parametrize("error", [KeyError("x"), MemoryError(), AttributeError("y"), SystemExit(3)])
def test_whatever_goes_wrong_with_a_new_model_is_a_refusal_and_not_an_end(
    models: dict[str, str], error: BaseException
) -> None:
    def load(place: str) -> HostedModel:
        if place != models["a"]:
            raise error
        return HostedModel.load(place)

    async def test(office: Office) -> None:
        replica = await office.hire(models["a"], load)
        with pytest.raises(RefusedError):
            await office.plan.promote(Slot(models["b"], "B"))
        replica.check()
        assert replica.is_following

    run(models["a"], test)


def test_a_replica_goes_on_while_the_manager_is_away(models: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    async def test(office: Office) -> None:
        replica = await office.hire(models["a"])
        office.is_away = True
        asked = office.num_asked
        await until(lambda: office.num_asked > asked + 3)
        assert replica.is_following and replica.host.current.version == version(models["a"])
        office.is_away = False
        await office.plan.promote(Slot(models["b"], "B"))
        assert replica.host.current.version == version(models["b"])

    run(models["a"], test)
    assert caplog.text.count("the release manager does not answer") == 1  # not with each report


def test_a_replica_without_a_manager_or_a_model_does_not_start(models: dict[str, str], tmp_path: Path) -> None:
    async def away(office: Office) -> None:
        office.is_away = True
        with pytest.raises(ManagerUnavailableError):
            await office.hire(models["a"])
        assert not office.followers[0].is_following

    async def nothing(office: Office) -> None:
        with pytest.raises(ValueError, match="there is no such folder"):
            await office.hire(str(tmp_path / "nothing"))

    run(models["a"], away)
    run(str(tmp_path / "nothing"), nothing)


def test_a_replica_of_a_new_configuration_does_not_take_the_old_managers_model(models: dict[str, str]) -> None:
    async def test(office: Office) -> None:
        replica = await office.hire(models["b"])
        assert replica.host.current.version == version(models["b"])
        office.plan = ReleasePlan(models["b"], Slot(models["b"], "B"))
        await until(lambda: [each.release for each in office.plan.living.values()] == [office.plan.release])
        assert replica.host.current.version == version(models["b"])

    run(models["a"], test)


def test_a_replica_that_cannot_load_what_the_others_answer_with_says_that_it_has_to_be_replaced(
    models: dict[str, str],
) -> None:
    def load(place: str) -> HostedModel:
        if place == models["b"]:
            raise OSError("disk full")
        return HostedModel.load(place)

    async def test(office: Office) -> None:
        replica = await office.hire(models["a"], load)
        other = ReleasePlan(models["a"], Slot(models["a"], "a"))
        other.release = releases.Release(5, Slot(models["b"], "B"))
        office.plan = other
        await until(lambda: not replica.is_following)
        assert replica.host.current.version == version(models["a"])  # it answers until it is replaced
        with pytest.raises(RuntimeError, match=r"does not follow the releases any more: .*others answer with"):
            replica.check()

    run(models["a"], test)


def test_a_fault_of_the_program_ends_the_following_and_is_told(models: dict[str, str]) -> None:
    async def test(office: Office) -> None:
        replica = await office.hire(models["a"])
        office.plan.report = lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
        await until(lambda: not replica.is_following)
        with pytest.raises(RuntimeError, match="division by zero"):
            replica.check()

    run(models["a"], test)


def test_a_rollback_loads_only_the_version_that_answered_before(models: dict[str, str], tmp_path: Path) -> None:
    place = tmp_path / "place"
    shutil.copytree(models["a"], place)

    async def test(office: Office) -> None:
        replica = await office.hire(str(place))
        await office.plan.promote(Slot(models["b"], "B"))
        shutil.rmtree(place)
        shutil.copytree(models["c"], place)
        with pytest.raises(RefusedError, match="expected version"):
            await office.plan.roll_back()
        assert replica.host.current.version == version(models["b"])

    run(str(place), test)

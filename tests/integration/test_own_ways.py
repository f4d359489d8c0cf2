"""Faults of Ray and torch for which this package has something of its own: one test each, on the framework alone.

A test that fails says that a release has mended its fault: then the framework's way comes back and ours goes. The table
in docs/architecture.md names each.
"""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import ray
import ray.data
import ray.train
import ray.train.torch
import torch.distributed
from ray.data import ActorPoolStrategy

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_the_split_of_ray_train_drops_videos() -> None:
    parts = ray.data.range(101, override_num_blocks=1).streaming_split(2, equal=True)

    counts = ray.get([_count.remote(part) for part in parts])

    assert sum(counts) < 101


@ray.remote(num_cpus=0.1)
def _count(part: ray.data.DataIterator) -> int:
    return sum(len(batch["id"]) for batch in part.iter_batches(batch_size=None))


def test_an_iterator_of_ray_data_has_no_position_to_continue_from() -> None:
    assert not hasattr(ray.data.DataIterator, "state_dict")
    assert not hasattr(ray.data.DataIterator, "load_state_dict")


def test_ray_data_gives_an_error_of_ours_back_as_its_own() -> None:
    class RefusedError(ValueError):
        pass

    def refuse(batch: dict[str, object]) -> dict[str, object]:
        raise RefusedError("train.tfrecord: record 3")

    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.data.range(1).map_batches(refuse).take_all()

    assert str(caught.value).strip().splitlines()[-1] != "train.tfrecord: record 3"
    assert len(str(caught.value).splitlines()) > 1


def test_of_an_error_in_the_constructor_of_a_pool_only_text_is_left() -> None:
    class Model:
        def __init__(self) -> None:
            raise FileNotFoundError(2, "no checkpoint", "runs/moe")

        def __call__(self, batch: dict[str, object]) -> dict[str, object]:
            return batch

    with pytest.raises(ray.exceptions.RayError) as caught:
        ray.data.range(1).map_batches(Model, compute=ActorPoolStrategy(size=1)).take_all()

    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, FileNotFoundError):
        error = getattr(error, "cause", None) or error.__cause__
    assert error is None


def test_a_checkpoint_of_ray_train_is_not_checked(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"half of the wei")
    checkpoint = ray.train.Checkpoint.from_directory(tmp_path)

    with checkpoint.as_directory() as folder:
        assert Path(folder, "model.bin").read_bytes() == b"half of the wei"  # what a killed worker left


@pytest.mark.soak  # two starts of Ray Train
def test_ray_train_starts_again_after_an_error_in_the_data(tmp_path: Path) -> None:
    starts = tmp_path / "starts"

    def train() -> None:
        with starts.open("a") as file:
            file.write("x")
        raise ValueError("train.tfrecord: record 3 is damaged")

    trainer = ray.train.torch.TorchTrainer(
        train,
        scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
        run_config=ray.train.RunConfig(
            storage_path=str(tmp_path / "runs"), failure_config=ray.train.FailureConfig(max_failures=1)
        ),
    )
    with pytest.raises(ray.train.TrainingFailedError):
        trainer.fit()

    assert starts.read_text() == "xx"


def test_the_store_of_torch_listens_on_all_interfaces_whatever_address_it_is_given() -> None:
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    listening = [each.laddr for each in psutil.Process().net_connections() if each.status == psutil.CONN_LISTEN]

    assert {address.ip for address in listening if address.port == store.port} & {"0.0.0.0", "::"}

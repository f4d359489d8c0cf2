from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from yt8m_ray.data.position import Position, epoch_order


def position_of(*pairs: tuple[int, int], epoch: int = 0) -> Position:
    position = Position(epoch)
    for shard, record in pairs:
        position.add(np.array([shard]), np.array([record]))
    return position


def test_records_come_back_ascending_by_shard() -> None:
    position = Position()
    position.add(np.array([3, 0, 3, 3]), np.array([17, 2, 0, 300]))

    assert position.records(3).tolist() == [0, 17, 300]
    assert position.records(0).tolist() == [2]
    assert position.records(1).tolist() == []
    assert position.num_consumed == 4


def test_adding_earlier_records_keeps_later_ones() -> None:
    assert position_of((1, 40), (1, 3)).records(1).tolist() == [3, 40]


def test_merging_is_the_union() -> None:
    position = position_of((0, 1), (2, 9))
    position.merge(position_of((0, 4), (0, 1), (5, 0)))

    assert {shard: position.records(shard).tolist() for shard in (0, 2, 5)} == {0: [1, 4], 2: [9], 5: [0]}


def test_arrays_hold_everything() -> None:
    position = position_of((7, 12), (0, 0), epoch=4)

    again = Position.from_arrays(position.to_arrays())

    assert again.epoch == 4
    assert again.records(7).tolist() == [12]
    assert again.records(0).tolist() == [0]


def test_an_empty_position_survives_a_file(tmp_path: Path) -> None:
    Position(3).save(tmp_path / "position.npz")

    again = Position.load(tmp_path / "position.npz")

    assert (again.epoch, again.consumed) == (3, {})


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"position.npz is missing on this node"):
        Position.load(tmp_path / "position.npz")


def test_epochs_have_orders_of_their_own_that_the_seed_repeats() -> None:
    first, second = (epoch_order(50, seed=1, epoch=epoch) for epoch in (0, 1))

    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first == epoch_order(50, seed=1, epoch=0)
    assert first != epoch_order(50, seed=2, epoch=0)

from __future__ import annotations

import numpy as np
import pytest

from yt8m_ray.data.errors import UNLABELLED
from yt8m_ray.data.pipeline.packed_videos import Rejection, ShardEnd
from yt8m_ray.data.pipeline.read_position import AccountingError, Position, epoch_order


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
    assert position.num_done == 4


def test_adding_earlier_records_keeps_later_ones() -> None:
    assert position_of((1, 40), (1, 3)).records(1).tolist() == [3, 40]


def test_merging_is_the_union() -> None:
    position = position_of((0, 1), (2, 9))
    position.merge(position_of((0, 4), (0, 90), (5, 0)))

    assert {shard: position.records(shard).tolist() for shard in (0, 2, 5)} == {0: [1, 4, 90], 2: [9], 5: [0]}


@pytest.mark.parametrize("again", [[3], [20, 3], [20, 20]])
def test_a_record_that_arrives_twice_is_refused(again: list[int]) -> None:
    position = position_of((7, 1), (7, 3), (7, 12))

    with pytest.raises(AccountingError, match=r"shard 7: .* arrived twice"):
        position.add(np.full(len(again), 7), np.array(again))


def test_a_record_that_two_workers_have_is_refused() -> None:
    with pytest.raises(AccountingError, match="shard 4: record 9 arrived twice"):
        position_of((4, 9)).merge(position_of((4, 2), (4, 9), (4, 11)))


def remarked(num_records: int, *rejected: int) -> Position:
    """One shard with records 0 and 1 used."""
    position = position_of((0, 0), (0, 1))
    position.add_remarks([Rejection(0, record, "crc", "") for record in rejected], [ShardEnd(0, num_records)])
    return position


def test_used_and_rejected_records_make_a_shard_complete() -> None:
    position = remarked(4, 2, 3)

    position.check_complete(["a"])

    assert position.is_finished(0)
    assert (position.num_done, position.num_rejected, position.rejected["crc"]) == (4, 2, 2)


@pytest.mark.parametrize(("position", "present"), [(remarked(5, 2, 3), "5"), (remarked(4, 3), "4"), (remarked(1), "1")])
def test_a_record_that_does_not_arrive_is_an_error_that_names_its_shard(position: Position, present: str) -> None:
    with pytest.raises(AccountingError, match=f"train01.tfrecord: {present} records are present"):
        position.check_complete(["train01.tfrecord"])


def test_a_shard_whose_end_does_not_arrive_is_an_error() -> None:
    with pytest.raises(AccountingError, match="b: an unknown number of records are present, 0 arrived"):
        remarked(2).check_complete(["a", "b"])


def test_an_empty_shard_is_complete() -> None:
    position = Position()
    position.add_remarks([], [ShardEnd(0, 0)])
    position.check_complete(["a"])


def test_arrays_hold_everything() -> None:
    position = position_of((7, 12), (0, 0), epoch=4)
    position.add_remarks([Rejection(7, 3, "label", "")], [ShardEnd(0, 1), ShardEnd(7, 40)])

    again = Position.from_arrays(position.to_arrays())

    assert again.epoch == 4
    assert again.records(7).tolist() == [3, 12]
    assert again.records(0).tolist() == [0]
    assert again.num_records == {0: 1, 7: 40}
    assert again.rejected == {"label": 1}


def test_a_checkpoint_of_a_version_that_knew_fewer_causes_is_read() -> None:
    position = Position()
    position.add_remarks([Rejection(0, 3, "label", ""), Rejection(0, 4, "crc", "")], [])
    arrays = position.to_arrays()

    again = Position.from_arrays({**arrays, "rejected": arrays["rejected"][:4]})

    assert again.rejected == {"label": 1, "crc": 1}


def test_a_video_without_labels_is_done_and_counted_by_itself() -> None:
    position = Position()
    position.add(np.array([0]), np.array([0]))
    position.add_remarks([Rejection(0, 1, UNLABELLED, "")], [ShardEnd(0, 2)])

    position.check_complete(["a"])
    assert Position.from_arrays(position.to_arrays()).rejected == {UNLABELLED: 1}


def test_epochs_have_orders_of_their_own_that_the_seed_repeats() -> None:
    first, second = (epoch_order(50, seed=1, epoch=epoch) for epoch in (0, 1))

    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first == epoch_order(50, seed=1, epoch=0)
    assert first != epoch_order(50, seed=2, epoch=0)


def test_a_shard_that_is_listed_twice_is_accounted_for_twice() -> None:
    # As bagging lists it: what is done and present goes by the place in the list, not by the path.
    shards, position = ["a", "a", "b"], Position()
    for shard in range(3):
        position.add(np.full(2, shard), np.arange(2))
        position.add_remarks([], [ShardEnd(shard, 2)])

    position.check_complete(shards)
    assert position.num_done == 6
    del position.done[1]
    with pytest.raises(AccountingError, match="a: 2 records are present, 0 arrived"):
        position.check_complete(shards)

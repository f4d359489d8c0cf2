from __future__ import annotations

import pickle

import pytest

from yt8m_ray.data.errors import CorruptRecordError
from yt8m_ray.errors import CarriedError

ERRORS = [
    PermissionError("s3://bucket: the store refuses access"),
    ValueError("one sentence"),
    FloatingPointError("the loss is nan"),
    CorruptRecordError("a.tfrecord", 3, 91, "text", "parse"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_is_carried_whole_whatever_is_added_to_its_carrier(error: Exception) -> None:
    with pytest.raises(CarriedError) as caught, CarriedError.carrying():
        raise error

    # As Ray Data does before it sends an error to the driver.
    caught.value.args = (*caught.value.args, "Failed to apply UDF transform after 1/1 attempts.")
    again = pickle.loads(pickle.dumps(caught.value))

    assert type(again.error) is type(error) and str(again.error) == str(error)


def test_what_no_user_can_mend_keeps_its_traceback() -> None:
    with pytest.raises(KeyError), CarriedError.carrying():
        raise KeyError("a fault of ours")

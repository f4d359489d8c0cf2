"""What a record may cost: the decoder stops at as many steps and fields as it is told."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.costly import costly_records, empty_steps, num_calls
from yt8m_ray.data.errors import RecordError
from yt8m_ray.data.format.example import decode_record, encode_sequence_example

COSTLY = costly_records(300_000)


@pytest.mark.parametrize("num_bytes", [2**20, 2**23])
def test_steps_beyond_the_limit_are_not_looked_at(num_bytes: int) -> None:
    payload = empty_steps(num_bytes)

    def read() -> None:
        assert decode_record(payload, max_steps=301).sequences == {"rgb": [[]] * 301}

    assert num_calls(read) < 10_000


@pytest.mark.parametrize("name", COSTLY)
def test_more_fields_than_a_record_may_have_are_refused_before_they_are_looked_at(name: str) -> None:
    def refuse() -> None:
        with pytest.raises(RecordError, match="more fields than a video has"):
            decode_record(COSTLY[name], max_steps=301, max_fields=1000)

    assert num_calls(refuse) < 20_000


def test_frames_that_are_laid_out_alike_are_no_fields() -> None:
    frames = np.zeros((5000, 4), np.uint8)

    steps = decode_record(encode_sequence_example({}, {"rgb": frames}), max_steps=301, max_fields=10).sequences["rgb"]

    assert isinstance(steps, np.ndarray) and steps.shape == (5000, 4)


def test_without_limits_everything_is_read() -> None:
    assert len(decode_record(empty_steps(20_000)).sequences["rgb"]) == 10_000

"""The compiled loops give what the complete decoder gives, whatever a record looks like, and stay inside it."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.messages import SPECS, Messages, assert_read_as_decoded, decode_slowly
from yt8m_ray.data.format.features import FeatureSpec, LabelPolicy
from yt8m_ray.data.pipeline.fast_decode import DONE, UNUSUAL, VIDEO_COLUMNS, pack_records, reading_of
from yt8m_ray.data.pipeline.read_options import ReadOptions

POLICIES = get_args(LabelPolicy)
ROOT = Path(__file__).resolve().parents[3]
IS_SOAK = os.environ.get("YT8M_SOAK") == "1"
NUM_SHARDS, NUM_RECORDS = (2000 if IS_SOAK else 40), 50


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "s.tfrecord"


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: "+".join(spec.sizes))
def test_any_record_is_read_as_its_decoder_reads_it(path: Path, spec: FeatureSpec) -> None:
    for seed in range(NUM_SHARDS):
        random = Random(seed)
        labels: LabelPolicy = random.choice(POLICIES)
        options = ReadOptions(labels=labels, on_corrupt="skip", block_bytes=random.choice((1, 100, 1 << 20)))
        payloads = [Messages(random, spec).record() for _ in range(NUM_RECORDS)]
        decode = functools.partial(decode_slowly, spec=spec, labels=labels)
        assert_read_as_decoded(path, payloads, spec, options, decode)


@given(st.randoms(use_true_random=False), st.sampled_from(SPECS))
def test_no_record_that_hypothesis_makes_is_read_otherwise(path: Path, random: Random, spec: FeatureSpec) -> None:
    labels: LabelPolicy = random.choice(POLICIES)
    payload = Messages(random, spec).record()
    decode = functools.partial(decode_slowly, spec=spec, labels=labels)
    assert_read_as_decoded(path, [payload], spec, ReadOptions(labels=labels, on_corrupt="skip"), decode)


def pack(data: bytes, start: int, end: int, spec: FeatureSpec, *, num_rows: int, num_labels: int) -> tuple[object, ...]:
    """Returns all that packing one record writes, into room for so many frames and labels."""
    size = np.dtype(spec.dtype).itemsize
    reading = reading_of(
        spec.sizes,
        max_frames=spec.max_frames,
        num_classes=spec.num_classes,
        labels="optional",
        video_level=spec.is_video_level,
    )
    frames = np.zeros((num_rows, spec.dim * size), np.uint8)
    labels = np.zeros(num_labels, np.int32)
    video = np.zeros((1, len(VIDEO_COLUMNS)), np.int64)
    bounds = (np.array([position], np.int64) for position in (start, end))
    count, row, label, status = pack_records(
        np.frombuffer(bytearray(data), np.uint8), *bounds, reading, frames, labels, video
    )
    if status != DONE:
        return count, status
    video[0, :2] -= start
    return count, status, row, label, video.tobytes(), frames.tobytes(), labels.tobytes()


@pytest.mark.parametrize("payload", [b"\x0a", b"\x0a\x02\x0a\x00", b"\x0a\x03\x0a\x01\x0a", b"\x12\x02\x0a\x00", b""])
def test_a_record_that_ends_with_its_last_length_is_left_to_the_decoder(payload: bytes) -> None:
    found = pack(payload, 0, len(payload), SPECS[0], num_rows=5, num_labels=5)

    assert found == (0, UNUSUAL) == pack(payload + b"\x0a", 0, len(payload), SPECS[0], num_rows=5, num_labels=5)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: "+".join(spec.sizes))
def test_what_surrounds_a_record_does_not_matter(spec: FeatureSpec) -> None:
    for seed in range(NUM_SHARDS * NUM_RECORDS // 4):
        random = Random(seed)
        payload = Messages(random, spec).record()
        before, behind = random.randbytes(20), random.choice((b"\x0a\x01", b"\x80\xff", b"\x00\x05")) * 10
        room = {"num_rows": random.randint(0, 9), "num_labels": random.randint(0, 50)}

        alone = pack(payload, 0, len(payload), spec, **room)

        among = before + payload + behind
        assert pack(among, len(before), len(before) + len(payload), spec, **room) == alone


COMPILED_OTHERWISE = {"bounds checked": {"NUMBA_BOUNDSCHECK": "1"}, "not compiled": {"NUMBA_DISABLE_JIT": "1"}}


@pytest.mark.soak
@pytest.mark.parametrize("how", COMPILED_OTHERWISE)
def test_no_index_leaves_its_array(tmp_path: Path, how: str) -> None:
    """Compiled code checks no index; these two do. A cache of its own keeps the checks out of the usual one."""
    environment = {**os.environ, **COMPILED_OTHERWISE[how], "NUMBA_CACHE_DIR": str(tmp_path)}
    del environment["YT8M_SOAK"]  # the quick counts: without compilation a record takes milliseconds
    files = ["test_reading_fuzz.py", "format/test_tfrecord.py", "pipeline/test_shard_reader.py"]
    files += ["test_corruption.py"] if how == "bounds checked" else []
    command = [sys.executable, "-m", "pytest", "-q", *(f"tests/unit/data/{name}" for name in files)]

    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    assert result.returncode == 0, result.stdout[-3000:]

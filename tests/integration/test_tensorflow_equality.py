"""Our shards read by TensorFlow, and TensorFlow's read by us; needs $YT8M_TENSORFLOW_PYTHON, a Python with TensorFlow.

TensorFlow is no dependency: it runs in a process of its own, tests/support/tensorflow_check.py. The first test needs
only the golden shards.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.messages import SPECS, Messages, assert_read_as_decoded, decode_slowly
from yt8m_ray.data.errors import RecordError
from yt8m_ray.data.format.example import Fields, decode_record, encode_example, encode_sequence_example
from yt8m_ray.data.format.features import FeatureSpec, VideoRow, to_row
from yt8m_ray.data.format.tfrecord import read_payloads, write_records
from yt8m_ray.data.labels.soft_label_files import encode_published
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.storage.filesystem import open_stream

TESTS = Path(__file__).resolve().parents[1]
GOLDEN = TESTS / "golden" / "tensorflow_shards"
NUM_MUTANTS = 20_000 if os.environ.get("YT8M_SOAK") == "1" else 1_000
NUM_MESSAGES = 20_000 if os.environ.get("YT8M_SOAK") == "1" else 1_000


def list_values(values: Any) -> dict[str, Any]:
    if isinstance(values, np.ndarray):
        return {str(values.dtype): values.tolist()}
    return {"bytes": [value.hex() for value in values]}


def list_fields(fields: Fields) -> dict[str, Any]:
    return {
        "context": {name: list_values(values) for name, values in fields.context.items()},
        "sequences": {
            name: [list_values([step.tobytes()] if isinstance(steps, np.ndarray) else step) for step in steps]
            for name, steps in fields.sequences.items()
        },
    }


def read_here(shard: str | Path) -> list[dict[str, Any]]:
    with open_stream(str(shard)) as stream:
        return [list_fields(decode_record(payload)) for _, _, payload in read_payloads(stream, path=str(shard))]


def normalize(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record of TensorFlow's listing with features without a kind as `Fields` has them."""
    return {
        "context": {name: values for name, values in record["context"].items() if values is not None},
        "sequences": {
            name: [{"bytes": []} if step is None else step for step in steps]
            for name, steps in record["sequences"].items()
        },
    }


def run_tensorflow(*arguments: str | Path) -> None:
    python = os.environ.get("YT8M_TENSORFLOW_PYTHON")
    if not python:
        pytest.skip("no TensorFlow: set YT8M_TENSORFLOW_PYTHON to a Python that has it")
    command = [python, str(TESTS / "tensorflow_check.py"), *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]


def read_by_tensorflow(output: Path, shards: list[Path]) -> dict[str, Any]:
    run_tensorflow("read", output, *shards)
    listing: dict[str, Any] = json.loads(output.read_text())
    return listing


def assert_equal_listings(found: Any, expected: Any) -> None:
    # JSON text, because it compares NaN with NaN and every bit of a float.
    assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)


@pytest.mark.parametrize("name", sorted(json.loads((GOLDEN / "fields.json").read_text())))
def test_the_golden_shards_of_tensorflow_are_read_here(name: str) -> None:
    records = json.loads((GOLDEN / "fields.json").read_text())[name]

    found = read_here(GOLDEN / name)

    assert_equal_listings(found, [normalize(record) for record in records])
    assert_equal_listings(found, [record["parsed"] for record in records])


def test_shards_written_by_tensorflow_are_read_here(tmp_path: Path) -> None:
    run_tensorflow("write", tmp_path)
    shards = sorted(tmp_path.glob("*.tfrecord"))

    listing = read_by_tensorflow(tmp_path / "fields.json", shards)

    assert len(listing) == 6
    for shard, records in listing.items():
        assert_equal_listings(read_here(shard), [normalize(record) for record in records])


def test_shards_written_here_are_read_by_tensorflow(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    context = {
        "id": [b"a\xff\x00"],
        "labels": np.array([-1, 2**63 - 1, -(2**63), 0, 300]),
        "mean_rgb": rng.normal(size=1024).astype(np.float32),
        "": np.array([], np.float32),
        "no integers": np.array([], np.int64),
        "no strings": [],
    }
    frames = {"rgb": rng.integers(0, 256, (300, 1024), np.uint8), "audio": rng.integers(0, 256, (300, 128), np.uint8)}
    payloads = {"video": encode_example(context), "frame": encode_sequence_example(context, frames)}
    shards = []
    for compression in ("none", "gzip", "zlib"):
        for level, payload in payloads.items():
            shards.append(tmp_path / f"{level}.{compression}.tfrecord")
            write_records(str(shards[-1]), [payload] * 3, compression=compression)

    listing = read_by_tensorflow(tmp_path / "fields.json", shards)

    sequences = {name: [{"bytes": [frame.tobytes().hex()]} for frame in feature] for name, feature in frames.items()}
    for shard, records in listing.items():
        expected = {
            "context": {name: list_values(values) for name, values in context.items()},
            "sequences": sequences if "frame" in Path(shard).name else {},
        }
        assert len(records) == 3
        for record in records:
            assert_equal_listings(record.pop("parsed"), expected)
            assert_equal_listings(record, expected)


def test_a_teacher_s_predictions_are_read_by_tensorflow(tmp_path: Path) -> None:
    # The keys and types that the 2018 winner's reader parses: video_id, labels, predictions; rgb and audio.
    rng, spec = np.random.default_rng(4), FeatureSpec({"rgb": 1024, "audio": 128}, num_classes=3862)
    frames = rng.integers(0, 256, (30, spec.dim), np.uint8)
    labels, scores = np.array([3, 700], np.int32), rng.random(3862).astype(np.float32)
    write_records(str(tmp_path / "a.tfrecord"), [encode_published("abcd", frames, labels, scores, spec=spec)])

    (records,) = read_by_tensorflow(tmp_path / "fields.json", [tmp_path / "a.tfrecord"]).values()

    context = {"video_id": {"bytes": [b"abcd".hex()]}, "labels": {"int64": [3, 700]}}
    context["predictions"] = list_values(scores)
    parts = {"rgb": frames[:, :1024], "audio": frames[:, 1024:]}
    sequences = {name: [{"bytes": [frame.tobytes().hex()]} for frame in part] for name, part in parts.items()}
    assert_equal_listings(records[0].pop("parsed"), {"context": context, "sequences": sequences})


def test_real_shards_are_read_as_tensorflow_reads_them(yt8m_data: Path, tmp_path: Path) -> None:
    shards = [
        *sorted((yt8m_data / "yt8m" / "v2_video" / "train").iterdir())[:1],
        *sorted((yt8m_data / "yt8m" / "v2_video" / "validate").iterdir())[:1],
        *sorted((yt8m_data / "yt8m" / "v1_video").iterdir()),
        *sorted((yt8m_data / "yt8m" / "v2_frame").iterdir()),
        *sorted((yt8m_data / "third_party_shards").iterdir()),
    ]

    listing = read_by_tensorflow(tmp_path / "fields.json", shards)

    assert len(listing) == len(shards)
    for shard, records in listing.items():
        found = read_here(shard)
        assert_equal_listings(found, [record.pop("parsed") for record in records])
        assert_equal_listings(found, records)


def test_damaged_payloads_give_the_values_of_tensorflow_or_an_error(tmp_path: Path) -> None:
    with open_stream(str(GOLDEN / "frame.none.tfrecord")) as stream:
        payloads = [bytes(payload) for _, _, payload in read_payloads(stream, path="golden")]
    mutants = [mutate(random.Random(seed), payloads[seed % len(payloads)]) for seed in range(NUM_MUTANTS)]
    (tmp_path / "payloads.json").write_text(json.dumps([mutant.hex() for mutant in mutants]))

    run_tensorflow("parse", tmp_path / "fields.json", tmp_path / "payloads.json")

    expected = json.loads((tmp_path / "fields.json").read_text())
    assert 0 < expected.count(None) < len(mutants)
    for seed, (mutant, record) in enumerate(zip(mutants, expected, strict=True)):
        try:
            found = list_fields(decode_record(mutant))
        except RecordError:
            assert record is None, f"seed {seed}: TensorFlow reads {record}"
        else:
            assert record is not None, f"seed {seed}: TensorFlow refuses it, found {found}"
            assert_equal_listings(found, normalize(record))


def as_fields(record: dict[str, Any]) -> Fields:
    """Returns what TensorFlow found, as the decoder would say it."""

    def as_values(listed: dict[str, Any]) -> Any:
        ((kind, values),) = listed.items()
        return [bytes.fromhex(value) for value in values] if kind == "bytes" else np.array(values, kind)

    sequences: dict[str, Any] = {}
    for name, steps in record["sequences"].items():
        values = [as_values(step) for step in steps]
        frames = [step[0] for step in values if isinstance(step, list) and len(step) == 1]
        is_regular = len(frames) == len(values) and len({len(frame) for frame in frames}) == 1
        sequences[name] = np.array([np.frombuffer(frame, np.uint8) for frame in frames]) if is_regular else values
    return Fields({name: as_values(values) for name, values in record["context"].items()}, sequences)


def test_records_of_every_shape_are_read_with_the_values_of_tensorflow(tmp_path: Path) -> None:
    payloads = [[Messages(random.Random(seed), spec).record() for seed in range(NUM_MESSAGES)] for spec in SPECS]
    (tmp_path / "payloads.json").write_text(json.dumps([payload.hex() for part in payloads for payload in part]))

    run_tensorflow("parse", tmp_path / "fields.json", tmp_path / "payloads.json")

    expected = iter(json.loads((tmp_path / "fields.json").read_text()))
    for spec, part in zip(SPECS, payloads, strict=True):
        records = iter([next(expected) for _ in part])

        def decode(payload: bytes, spec: FeatureSpec = spec, records: Any = records) -> VideoRow | RecordError:
            record = next(records)
            if record is None:
                refused = decode_slowly(payload, spec, labels="optional")
                assert isinstance(refused, RecordError), f"TensorFlow refuses {payload.hex()}, found {refused}"
                return refused
            try:
                return to_row(as_fields(normalize(record)), spec)
            except RecordError as error:
                return error

        assert_read_as_decoded(tmp_path / "s.tfrecord", part, spec, ReadOptions(on_corrupt="skip"), decode)


def mutate(rng: random.Random, payload: bytes) -> bytes:
    """Returns the payload with one to four bytes changed, added or removed, mostly where tags and lengths are."""
    mutant = bytearray(payload)
    for _ in range(rng.randint(1, 4)):
        position = rng.randrange(len(mutant))
        action = rng.randrange(4)
        if action == 0:
            mutant[position] = rng.choice((0, 1, 8, 10, 11, 12, 13, 18, 26, 127, 128, 255, rng.randrange(256)))
        elif action == 1:
            mutant[position] = (mutant[position] + rng.choice((-1, 1))) % 256
        elif action == 2:
            mutant[position] ^= 1 << rng.randrange(8)
        else:
            del mutant[position]
    return bytes(mutant)

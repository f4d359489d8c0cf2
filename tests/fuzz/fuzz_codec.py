"""Fuzzes the codec by coverage, for as long as it is told; needs atheris, which no test does.

    python tests/fuzz/fuzz_codec.py --seconds 60 [--compiled] [--corpus FOLDER]

Each input becomes a record of a shard, behind right checksums, and is read by the compiled loops and by the complete
decoder, which have to agree. Without --compiled the loops run as Python, so that their coverage is seen too. Time and
memory are bounded; a finding ends the program with the input in a file.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from random import Random
from typing import get_args

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

IS_COMPILED = "--compiled" in sys.argv
if not IS_COMPILED:
    os.environ["NUMBA_DISABLE_JIT"] = "1"  # read when numba is imported
COMPILED = (
    ["yt8m_ray.data.format.record_scan", "yt8m_ray.data.pipeline.fast_decode", "yt8m_ray.data.pipeline.byte_loops"]
    if IS_COMPILED
    else []
)

with atheris.instrument_imports(include=["yt8m_ray.data"], exclude=COMPILED):
    from tests.support.messages import SPECS, Messages, assert_read_as_decoded, decode_slowly
    from yt8m_ray.data.errors import CorruptRecordError
    from yt8m_ray.data.format.features import LabelPolicy
    from yt8m_ray.data.format.tfrecord import frame_record, read_payloads
    from yt8m_ray.data.pipeline.read_options import ReadOptions

MOST_CPU_S = 1.0 if IS_COMPILED else 10.0
"""An input has at most some kilobytes: it takes milliseconds."""

MOST_BYTES_PER_BYTE = 200
FREE_BYTES = 1 << 20
NUM_SEEDS = 1000
TRACED = 50
"""Every so many-th input its memory is traced, which takes ten times as long."""


class Codec:
    """What is fuzzed.

    Args:
        path: Where the shards lie.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.num_executions = 0

    def __call__(self, data: bytes) -> None:
        """Reads an input as a record, and as the bytes of a shard."""
        self.num_executions += 1
        started = time.process_time()
        choice, payload = data[:1] or b"\0", data[1:]
        spec = SPECS[choice[0] % len(SPECS)]
        policies = get_args(LabelPolicy)
        labels: LabelPolicy = policies[choice[0] // 64 % len(policies)]
        options = ReadOptions(labels=labels, on_corrupt="skip", block_bytes=64)
        decode = functools.partial(decode_slowly, spec=spec, labels=labels)
        assert_read_as_decoded(self._path, [payload, payload], spec, options, decode)
        self._read_shard(payload)
        elapsed = time.process_time() - started
        if elapsed > MOST_CPU_S:
            raise TimeoutError(f"{elapsed:.1f} CPU-seconds for {len(data)} bytes")
        if self.num_executions % TRACED == 0:
            self._check_memory(payload, decode)

    def _read_shard(self, data: bytes) -> None:
        """Reads bytes as a shard, bare and between two sound records, of which none may be lost."""
        for shard in (data, frame_record(b"first") + data + frame_record(b"last")):
            rejected: list[CorruptRecordError] = []
            stream = io.BytesIO(shard)
            found = [
                (record, bytes(payload))
                for record, _, payload in read_payloads(stream, path="s", on_corrupt=rejected.append)
            ]
            records = sorted([*(record for record, _ in found), *(error.record for error in rejected)])
            assert records == list(range(len(records))), shard.hex()
            if shard is not data:
                assert (found[0][1], found[-1][1]) == (b"first", b"last"), shard.hex()

    def _check_memory(self, payload: bytes, decode: object) -> None:
        assert callable(decode)
        tracemalloc.start()
        decode(payload)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if peak > FREE_BYTES + MOST_BYTES_PER_BYTE * len(payload):
            raise MemoryError(f"{peak} bytes for {len(payload)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--compiled", action="store_true", help="run the loops as they are: without their coverage")
    parser.add_argument("--corpus", type=Path, help="a folder to start from, which grows; default: one for this run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = arguments.corpus or Path(folder, "corpus")
        corpus.mkdir(parents=True, exist_ok=True)
        for seed in range(NUM_SEEDS):
            message = Messages(Random(seed), SPECS[seed % len(SPECS)]).record()
            (corpus / f"seed{seed:04d}").write_bytes(bytes([seed % len(SPECS)]) + message)
        codec = Codec(Path(folder, "s.tfrecord"))
        options = [f"-max_total_time={arguments.seconds}", "-max_len=4096", "-timeout=20", "-rss_limit_mb=4096"]
        options += [f"-artifact_prefix={os.getcwd()}/finding-", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], codec)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

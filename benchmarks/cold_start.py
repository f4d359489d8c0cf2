"""From a bundle's file to its first answer, against reading the file.

    python benchmarks/cold_start.py [--megabytes 1000] [--tar] [--folder DIR] [--rounds 3] [--json]

A bundle of int8 mixtures of experts with made-up weights is written, as large as asked for. Then, each in a process of
its own with everything imported: reading all of its bytes; comparing them with their hashes; and Predictor.from_path
(hash check, load) with the first answer. Peak memory is what the process held more than before, mapped files included.
Pages are dropped from the cache before each round where the system lets a process do that; `warm` rounds keep them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from benchmarks.measure import Figures, best, cores, run_pinned
from yt8m_ray.artifacts.archive import write_archive
from yt8m_ray.artifacts.folder_manifest import read_manifest
from yt8m_ray.config.quantization import TransformConfig
from yt8m_ray.data.format.features import FeatureSpec, VideoRow
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.inference.bundle.document import (
    BundleDocument,
    MemberEntry,
    Provenance,
    Quality,
    read_document,
)
from yt8m_ray.inference.bundle.folder import write_bundle
from yt8m_ray.inference.bundle.input_schema import InputSchema
from yt8m_ray.inference.locate import locate_model
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.inference.quantization.quantize import channel_axes, quantize_state
from yt8m_ray.models import build_model
from yt8m_ray.schema import NUM_CLASSES_2018, VIDEO_FEATURES

SPEC = FeatureSpec(VIDEO_FEATURES, num_classes=NUM_CLASSES_2018)
MODEL = {"name": "moe", "num_mixtures": 8}
_CHUNK_BYTES = 8 << 20


def make_bundle(folder: Path, num_megabytes: int) -> Path:
    """Writes a bundle of about that size and returns its folder; one that is there already is taken."""
    output = folder / f"bundle_{num_megabytes}"
    if output.exists():
        return output
    model = build_model(MODEL, feature_sizes=list(SPEC.sizes.values()), num_classes=SPEC.num_classes)
    stored = quantize_state(model.state_dict(), channel_axes(model))
    float32_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    stored_bytes = sum(tensor.nbytes for tensor in stored.values())
    num_members = max(1, round(num_megabytes * 1e6 / stored_bytes))
    entry = MemberEntry(
        model=MODEL,
        weight=1 / num_members,
        checkpoint="none",
        gap_before=0,
        gap_after=0,
        float32_bytes=float32_bytes,
        stored_bytes=stored_bytes,
    )
    document = BundleDocument(
        input=InputSchema.of(SPEC, "l2"),
        num_classes=SPEC.num_classes,
        members=[entry] * num_members,
        transform=TransformConfig(name="int8"),
        quality=Quality(split=[], num_videos=0, gap_before=0, gap_after=0),
        provenance=Provenance(created="now", package_version="none"),
    )
    return write_bundle(output, document, [stored] * num_members, Vocabulary.load())


def files_of(path: Path) -> list[Path]:
    """Returns the files that a bundle, folder or tar, consists of."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def drop_pages(path: Path) -> None:
    """Asks the system to forget what it has read of a bundle."""
    for file in files_of(path):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def read(path: Path) -> None:
    """Reads every byte."""
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    for name in files_of(path):
        with name.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def compare(path: Path) -> None:
    """Compares every byte with the manifest, of a tar those of its unpacked folder."""
    read_manifest(locate_model(path), kind="bundle")


def start(path: Path) -> None:
    """Loads the bundle and asks it once."""
    row = VideoRow("first", np.full((1, SPEC.dim), 0.1, np.float32), np.empty(0, np.int32))
    assert Predictor.from_path(path).predict([row]).scores.shape == (1, 20)


ACTIONS: dict[str, Callable[[Path], None]] = {"read": read, "compare": compare, "start": start}


def resident(field: str) -> float:
    """Returns megabytes of this process: `VmRSS` now, `VmHWM` at most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024 / 1e6


def forget_peak() -> None:
    """Lets VmHWM begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(action: str, path: Path, *, is_warm: bool) -> Figures:
    """Returns seconds and megabytes of one action in this process."""
    torch.set_num_threads(1)
    if not is_warm:
        drop_pages(path)
    forget_peak()
    before, started = resident("VmRSS"), time.perf_counter()
    ACTIONS[action](path)
    return {"seconds": time.perf_counter() - started, "peak_mb": resident("VmHWM") - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the bundle (default 1000)")
    parser.add_argument("--tar", action="store_true", help="as one file, unpacked once before the first round")
    parser.add_argument("--folder", help="keep the bundle here, or take the one that is here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--measure", choices=sorted(ACTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--warm", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, Path(options.folder), is_warm=options.warm)))
        return
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault("YT8M_CACHE", f"{scratch}/cache")
        path = make_bundle(Path(options.folder or scratch), options.megabytes)
        stored_mb = sum(file.stat().st_size for file in files_of(path)) / 1e6
        float32_mb = (read_document(path).float32_bytes or 0) / 1e6
        if options.tar:
            write_archive(path, path.with_suffix(".tar"))
            shutil.rmtree(path)
            path = path.with_suffix(".tar")
            started = time.perf_counter()
            locate_model(path)
            figures["unpack_seconds"] = time.perf_counter() - started
        for action in ("read", "compare", "start"):
            for warmth in ("cold", "warm"):
                command = [sys.executable, __file__, "--measure", action, "--folder", str(path)]
                command += ["--warm"] if warmth == "warm" else []
                found = best([run_pinned(command, cores=cores()[:1]) for _ in range(options.rounds)])
                figures |= {f"{action}_{warmth}_{name}": value for name, value in found.items()}
    times = figures["start_warm_seconds"] / figures["read_warm_seconds"]
    figures |= {"stored_mb": stored_mb, "float32_mb": float32_mb, "start_to_read_warm": times}
    for name, value in figures.items():
        print(f"{name:25s} {value:12.3f}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()

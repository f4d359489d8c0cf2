"""TensorFlow variables by name: where they come from, and which of them a model needs. No torch, no TensorFlow.

A checkpoint of the published systems also holds optimizer slots, counters, moving averages and the scopes of its
training graph (`tower/`); none of these belong to a variable's name in a table of names.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

SHADOW = "ExponentialMovingAverage"
"""Last part of the name under which TensorFlow keeps the moving average of a variable."""

_COUNTERS = {"global_step", "beta1_power", "beta2_power"}
_SLOTS = {"Adam", "Adam_1", "Momentum", "RMSProp", "RMSProp_1", "Adagrad", "Adadelta", "Adadelta_1", "Ftrl", "Ftrl_1"}
_CHECKPOINT_SUFFIX = re.compile(r"\.(index|meta|data-\d+-of-\d+)$")
_OUTPUT_NUMBER = re.compile(r":\d+$")

_MOST_EXPANSION = 20
_LEAST_BYTES = 1 << 30
"""Weights hardly become smaller when they are compressed; a file may hold so much whatever its own size."""

_UNREADABLE = (ValueError, OSError, AttributeError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What NumPy and zipfile raise for files that are damaged, encrypted or packed in a way of their own."""

TENSORFLOW_EXTRA = "pip install 'yt8m_ray[tensorflow]'"


def is_weight(name: str) -> bool:
    """Returns whether a variable is a model's own or the moving average of one: no optimizer slot and no counter."""
    last = _OUTPUT_NUMBER.sub("", name).rsplit("/", 1)[-1]
    return last not in _SLOTS and last not in _COUNTERS


def match_variables(
    names: Iterable[str], expected: Iterable[str], *, ema: bool
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Returns (the name in the checkpoint of each expected variable that is there, what is wrong by kind).

    Args:
        expected: Names without scopes.
        ema: Whether a variable's moving average stands for it where there is one.

    Returns:
        The second mapping has the keys `unexpected` (names nobody asks for), `ambiguous` (expected names that several
        variables end with, and these) and `missing`.
    """
    wanted = set(expected)
    weights: dict[str, list[str]] = {}
    shadows: dict[str, list[str]] = {}
    unexpected = []
    for name in names:
        if not is_weight(name):
            continue
        plain = _OUTPUT_NUMBER.sub("", name)
        is_shadow = plain.endswith(f"/{SHADOW}")
        known = _without_scopes(plain.removesuffix(f"/{SHADOW}"), wanted)
        if known is None:
            unexpected.append(name)
        else:
            (shadows if is_shadow else weights).setdefault(known, []).append(name)
    found = {**weights, **shadows} if ema else weights
    return {known: candidates[0] for known, candidates in found.items()}, {
        "missing": sorted(wanted - found.keys()),
        "unexpected": sorted(unexpected),
        "ambiguous": [f"{known} ({', '.join(them)})" for known, them in sorted(found.items()) if len(them) > 1],
    }


def has_shadows(names: Iterable[str]) -> bool:
    """Returns whether a checkpoint keeps moving averages."""
    return any(_OUTPUT_NUMBER.sub("", name).endswith(f"/{SHADOW}") for name in names)


def read_variables(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the variables of an `.npz` file, or of the TensorFlow checkpoint with this prefix, by name.

    The latter is read by a process of its own: TensorFlow and the `tfrecord` package register the same protobuf
    symbols.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: the file is damaged or holds what is no array, or TensorFlow is not installed.
    """
    path = Path(path)
    prefix = path.with_name(_CHECKPOINT_SUFFIX.sub("", path.name))  # one of its files is as good
    if path.is_file() and prefix == path:
        return _read_npz(path)
    if Path(f"{prefix}.index").is_file():
        with tempfile.TemporaryDirectory(prefix="yt8m_variables_") as folder:
            return _read_tensorflow(prefix, Path(folder) / "variables.npz")
    raise FileNotFoundError(
        f"{path}: expected an .npz file, or the prefix of a TensorFlow checkpoint (there would be {path.name}.index "
        "beside its data), found neither"
    )


def _without_scopes(name: str, wanted: set[str]) -> str | None:
    parts = name.split("/")
    candidates = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((candidate for candidate in candidates if candidate in wanted), None)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: expected an .npz file of arrays by variable name, found something else")
    try:
        with zipfile.ZipFile(path) as archive:
            num_bytes = sum(entry.file_size for entry in archive.infolist())
        if num_bytes > max(_MOST_EXPANSION * path.stat().st_size, _LEAST_BYTES):
            raise ValueError(f"its {path.stat().st_size} bytes expand to {num_bytes}, which no weights do")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files if is_weight(name)}
    except _UNREADABLE as error:
        raise ValueError(f"{path}: expected an .npz file of arrays by variable name: {error}") from None


def _read_tensorflow(prefix: Path, target: Path) -> dict[str, np.ndarray]:
    command = [sys.executable, "-m", "yt8m_ray.interop.checkpoint_to_npz", str(prefix), str(target)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        reason = process.stderr.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        raise ValueError(f"{prefix}: the TensorFlow checkpoint cannot be read: {reason[0]}")
    return _read_npz(target)


def _fits_float32(array: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.isfinite(array.astype(np.float32)).all())


def check_arrays(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Returns a sentence for each array whose shape, type or values are not what a float32 weight has."""
    wrong = []
    for name, array in arrays.items():
        if array.shape != shapes[name]:
            wrong.append(f"{name} is {list(array.shape)}, expected {list(shapes[name])}")
        elif array.dtype.kind not in "fiu":
            wrong.append(f"{name} holds {array.dtype}, expected numbers")
        elif not _fits_float32(array):
            wrong.append(f"{name} holds NaN or infinity")
    return wrong

"""TensorFlow variables by name: reading them, and matching them with those that a model needs."""

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

# Last part of the name of a variable's moving average.
SHADOW = "ExponentialMovingAverage"

_COUNTERS = {"global_step", "beta1_power", "beta2_power"}
_SLOTS = {"Adam", "Adam_1", "Momentum", "RMSProp", "RMSProp_1", "Adagrad", "Adadelta", "Adadelta_1", "Ftrl", "Ftrl_1"}
_CHECKPOINT_SUFFIX = re.compile(r"\.(index|meta|data-\d+-of-\d+)$")
_OUTPUT_NUMBER = re.compile(r":\d+$")

# Compression hardly shrinks weights: a file that expands more, to over a gigabyte, is meant to fill the memory.
_MOST_EXPANSION = 20
_LEAST_BYTES = 1 << 30

# What NumPy and zipfile raise for files that are damaged, encrypted or packed in an unknown way.
_UNREADABLE = (ValueError, OSError, AttributeError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)

TENSORFLOW_EXTRA = "pip install 'yt8m_ray[tensorflow]'"


def is_weight(name: str) -> bool:
    """Returns whether a variable is a weight or the moving average of one, and no optimizer slot or counter."""
    last = _OUTPUT_NUMBER.sub("", name).rsplit("/", 1)[-1]
    return last not in _SLOTS and last not in _COUNTERS


def match_variables(names: Iterable[str], expected: Iterable[str], *, ema: bool) -> tuple[dict[str, str], list[str]]:
    """Returns (the checkpoint's name of each expected variable that is there, a sentence for each fault).

    `expected` has no scopes of a training graph (`tower/`). `ema` takes the moving average of a variable that has one;
    ValueError where none has.
    """
    wanted = set(expected)
    weights: dict[str, list[str]] = {}
    shadows: dict[str, list[str]] = {}
    unexpected = []
    has_shadow = False
    for name in filter(is_weight, names):
        plain = _OUTPUT_NUMBER.sub("", name)
        is_shadow = plain.endswith(f"/{SHADOW}")
        has_shadow |= is_shadow
        known = _without_scopes(plain.removesuffix(f"/{SHADOW}"), wanted)
        if known is None:
            unexpected.append(name)
        else:
            (shadows if is_shadow else weights).setdefault(known, []).append(name)
    if ema and not has_shadow:
        raise ValueError(f"ema: none of the variables is an {SHADOW}")
    found = {**weights, **shadows} if ema else weights
    faults = [f"{name} is missing" for name in sorted(wanted - found.keys())]
    faults += [f"{name} is unexpected" for name in sorted(unexpected)]
    # Two models in one checkpoint: nothing says which of them is meant.
    ambiguous = {name: sources for name, sources in sorted(found.items()) if len(sources) > 1}
    faults += [f"{name} ({', '.join(sources)}) is ambiguous" for name, sources in ambiguous.items()]
    return {name: sources[0] for name, sources in found.items()}, faults


def read_variables(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the variables of an `.npz` file, or of the TensorFlow checkpoint with this prefix, by name.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: the file is damaged or holds what is no array, or TensorFlow is not installed.
    """
    path = Path(path)
    # Any file of a checkpoint stands for its prefix.
    prefix = path.with_name(_CHECKPOINT_SUFFIX.sub("", path.name))
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
    # The longest name that is wanted: the scopes of a training graph come first.
    candidates = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((candidate for candidate in candidates if candidate in wanted), None)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: expected an .npz file of arrays by variable name, found something else")
    try:
        # Before anything is unpacked: NumPy trusts the sizes in the archive.
        with zipfile.ZipFile(path) as archive:
            num_bytes = sum(entry.file_size for entry in archive.infolist())
        if num_bytes > max(_MOST_EXPANSION * path.stat().st_size, _LEAST_BYTES):
            raise ValueError(f"its {path.stat().st_size} bytes expand to {num_bytes}, which no weights do")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files if is_weight(name)}
    except _UNREADABLE as error:
        raise ValueError(f"{path}: expected an .npz file of arrays by variable name: {error}") from None


def _read_tensorflow(prefix: Path, target: Path) -> dict[str, np.ndarray]:
    # In a process of its own: TensorFlow and the `tfrecord` package register the same protobuf symbols.
    command = [sys.executable, "-m", "yt8m_ray.interop.checkpoint_to_npz", str(prefix), str(target)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        # The last line of stderr: TensorFlow logs before it.
        reason = process.stderr.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        raise ValueError(f"{prefix}: the TensorFlow checkpoint cannot be read: {reason[0]}")
    return _read_npz(target)


def check_arrays(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Returns a sentence for each array whose shape, type or values are not those of a float32 weight."""
    wrong = []
    for name, array in arrays.items():
        if array.shape != shapes[name]:
            wrong.append(f"{name} is {list(array.shape)}, expected {list(shapes[name])}")
        elif array.dtype.kind not in "fiu":
            wrong.append(f"{name} holds {array.dtype}, expected numbers")
        else:
            # A float64 beyond the range of float32 becomes infinity, and is reported as that.
            with np.errstate(over="ignore"):
                if not np.isfinite(array.astype(np.float32)).all():
                    wrong.append(f"{name} holds NaN or infinity")
    return wrong

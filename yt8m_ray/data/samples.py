"""The real videos that come along: `samples/` of a checkout, and the same folder inside an installed package."""

from __future__ import annotations

from pathlib import Path

# `sample://video_level/train*.tfrecord` names shards of the folder, wherever shards are named.
SCHEME = "sample://"


def samples_folder() -> Path:
    """Returns the folder; its README.md says what is in it."""
    package = Path(__file__).parents[1]
    inside = package / "samples"
    return inside if inside.is_dir() else package.parent / "samples"


def resolve_sample(pattern: str) -> str:
    """Returns a path of `sample://...` as a path of the folder; any other pattern as it is."""
    return str(samples_folder() / pattern.removeprefix(SCHEME)) if pattern.startswith(SCHEME) else pattern

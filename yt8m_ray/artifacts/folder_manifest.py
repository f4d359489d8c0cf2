"""Sealed folders, which checkpoints and bundles are: a manifest, written last, has each file's size and SHA-256."""

from __future__ import annotations

# Nothing here imports torch, so that `yt8m describe` starts at once.
import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, cast

from yt8m_ray import __version__
from yt8m_ray.data.storage.folders import download_folder, is_remote, join_uri, read_file
from yt8m_ray.errors import ConfigError, YT8MError
from yt8m_ray.json_document import parse_json
from yt8m_ray.local_files import read_document

MANIFEST_FILE = "manifest.json"
CONFIG_FILE = "config.yaml"
# Of a bundle: its document, which a checkpoint lacks.
BUNDLE_FILE = "bundle.yaml"
MODEL_FILE = "model.safetensors"
STATE_FILE = "state.safetensors"

# Of the manifest; a bundle's document has a version of its own.
FORMAT_VERSION = 1
_MOST_THREADS = 4


class CheckpointError(YT8MError, ValueError):
    """A folder that is no intact checkpoint; the message says which file and why."""


class NoSuchFolderError(CheckpointError, ConfigError):
    """A path where no folder is: an argument to change, where a broken checkpoint is bad data."""


def check_new(folder: Path) -> None:
    """Checks that a command may write `folder`: ConfigError where something is there already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"output: {folder}: expected a folder that does not exist yet, or is empty")


@contextlib.contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """Gives an empty folder that becomes `folder` when the `with` block ends; after an error nothing stays."""
    with contextlib.ExitStack() as stack:
        try:
            written = stack.enter_context(folder_aside(folder))
        except OSError as error:
            raise ConfigError(f"output: {folder}: cannot be written: {error}") from None
        yield written
        written.replace(folder)


@contextlib.contextmanager
def folder_aside(folder: Path) -> Iterator[Path]:
    """Gives an empty folder that can be renamed to `folder`; what is left of it goes when the `with` block ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place: only within one filesystem does a rename make the whole folder appear at once.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as aside:
        written = Path(aside) / folder.name
        written.mkdir()
        yield written


def write_manifest(folder: Path, facts: Mapping[str, object]) -> None:
    """Writes manifest.json with `facts` and the size and hash of every file of the folder."""
    # Sorted, as `folder_version` is a hash of the manifest.
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"format_version": FORMAT_VERSION, "written_by": f"yt8m_ray {__version__}", **facts, "files": files}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: str | Path, *, kind: str) -> dict[str, object]:
    """Returns the manifest of a folder after comparing every file with it.

    Raises:
        CheckpointError: no manifest, another kind or version, or a file that is missing, cut short or altered.
        NoSuchFolderError: there is no such folder.
    """
    folder = Path(folder)
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        raise NoSuchFolderError(f"{folder}: no {kind}: there is no such folder")
    try:
        content = read_document(path)
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no {kind}: {MANIFEST_FILE} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: unreadable manifest: {error}") from None
    manifest = parse_manifest(content, where=str(folder), kind=kind)
    # A hash takes several times as long as reading the file from the page cache, and other threads run meanwhile.
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        # As a list, so that the first fault is raised here.
        list(pool.map(lambda file: _check_file(folder, *file), files_of(manifest).items()))
    return manifest


def parse_manifest(content: bytes, *, where: str, kind: str) -> dict[str, object]:
    """Returns the manifest of the folder or archive `where`, as `read_manifest` does, but compares no files."""
    path = f"{where}/{MANIFEST_FILE}"
    manifest = _parse(content, path)
    if manifest.get("kind") != kind:
        raise CheckpointError(f"{where}: expected a {kind}, found a {manifest.get('kind', 'folder of unknown kind')}")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{where}: format version {manifest.get('format_version')} found, this program reads {FORMAT_VERSION}"
        )
    # Which files a bundle needs, its document says.
    needed = {CONFIG_FILE, MODEL_FILE, STATE_FILE} if kind == "checkpoint" else set()
    if needed - manifest["files"].keys():
        raise CheckpointError(f"{path}: expected the files {sorted(needed)}, found {sorted(manifest['files'])[:10]}")
    # Anybody may have written the manifest, and a name with `..` would reach files outside the folder.
    for name, facts in manifest["files"].items():
        if not isinstance(facts, dict) or not {"bytes", "sha256"} <= facts.keys():
            raise CheckpointError(f"{path}: files: {name!r}: expected its bytes and sha256, found {facts!r}")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
            raise CheckpointError(f"{path}: files: {name!r} lies outside the folder")
    return manifest


def _parse(content: bytes, path: str) -> dict[str, Any]:
    try:
        manifest = parse_json(content, where=path, nan=True)  # a metric can be NaN
    except ValueError as error:
        raise CheckpointError(f"unreadable manifest: {error}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise CheckpointError(f"{path}: unreadable manifest: expected a mapping with the section files")
    return manifest


def files_of(manifest: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Returns the files of a manifest by their names, each with `bytes` and `sha256`, in hexadecimal digits."""
    return cast(dict[str, dict[str, object]], manifest["files"])


def local_folder(path: str | Path) -> Path:
    """Returns the absolute folder of a checkpoint or bundle; one in an object store is copied below `cache_folder()`.

    Raises:
        NoSuchFolderError, CheckpointError, OSError: the store has none, or a damaged one, or cannot be read.
    """
    uri = str(path)
    if not is_remote(uri):
        return Path(path).absolute()
    content = read_file(join_uri(uri, MANIFEST_FILE))
    if content is None:
        raise NoSuchFolderError(f"{uri}: no checkpoint: {MANIFEST_FILE} is missing")
    # By the contents of the manifest: the same checkpoint is copied once, and a changed one again.
    parent = cache_folder() / "checkpoints" / hashlib.sha256(content).hexdigest()[:16]
    # Under its own name: that of a checkpoint says epoch and step.
    folder = parent / PurePosixPath(join_uri(uri).partition("?")[0]).name
    if not folder.exists():
        with folder_aside(folder) as written:
            download_folder(uri, written)
            kind = _parse(content, join_uri(uri, MANIFEST_FILE)).get("kind")
            read_manifest(written, kind="bundle" if kind == "bundle" else "checkpoint")
            with contextlib.suppress(OSError):  # another process was faster
                written.rename(folder)
    return folder


def cache_folder() -> Path:
    """Returns the folder for copies of what is in object stores: $YT8M_CACHE, or else ~/.cache/yt8m_ray."""
    return Path(os.environ.get("YT8M_CACHE", "~/.cache/yt8m_ray")).expanduser().absolute()


def folder_version(folder: str | Path) -> str:
    """Returns a short name of the exact content of a bundle or checkpoint."""
    # The manifest has the hash of every other file.
    return hashlib.sha256((Path(folder) / MANIFEST_FILE).read_bytes()).hexdigest()[:12]


def _check_file(folder: Path, name: str, entry: Mapping[str, object]) -> None:
    file = folder / name
    try:
        status = file.stat()
        num_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None
        # A file of another size is not hashed: it is refused in any case.
        digest = _sha256(file) if num_bytes == entry["bytes"] else None
    except (FileNotFoundError, NotADirectoryError):  # perhaps only now: a run removes its older checkpoints
        num_bytes = None
    if num_bytes is None:
        raise CheckpointError(f"{file}: listed in the manifest, but missing")
    if num_bytes != entry["bytes"]:
        raise CheckpointError(f"{file}: {entry['bytes']} bytes expected, {num_bytes} found")
    if digest != entry["sha256"]:
        raise CheckpointError(f"{file}: the contents do not match the hash in the manifest")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""A bundle as one uncompressed tar file: the same bytes for the same folder. A tar is unpacked once a machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from pyarrow.fs import FileType

from yt8m_ray.artifacts.folder_manifest import (
    MANIFEST_FILE,
    CheckpointError,
    NoSuchFolderError,
    cache_folder,
    files_of,
    folder_aside,
    local_folder,
    parse_manifest,
    read_manifest,
)
from yt8m_ray.data.storage.filesystem import explaining, from_uri, split_query
from yt8m_ray.data.storage.folders import is_remote
from yt8m_ray.local_files import MOST_DOCUMENT_BYTES, regular_only

SUFFIX = ".tar"
# Of a read: from an object store each costs a round trip, and more at once would only be memory.
_CHUNK_BYTES = 8 << 20
# Of all headers together: 2,048 members, where a bundle has two for each model and five more.
_MOST_HEADER_BYTES = 1 << 20
_MOST_PADDING_BYTES = 1 << 20
# tarfile takes time by the square of the digits of a number, and cannot seek so far.
_LONG_NUMBER = re.compile(rb"[0-9]{20}")


def is_archive(path: str | Path) -> bool:
    """Returns whether a path or URI names a bundle in a tar file."""
    name = str(path)
    if is_remote(name):
        return split_query(name)[0].endswith(SUFFIX)
    return name.endswith(SUFFIX) and not Path(name).is_dir()


def open_folder(path: str | Path) -> Path:
    """Returns the absolute folder of a checkpoint or a bundle, wherever it is: a folder, a tar, in an object store.

    Raises:
        NoSuchFolderError: there is none.
        CheckpointError: a tar or a copy has not exactly the files of its manifest.
        OSError: the store or the tar cannot be read, or the cache cannot be written.
    """
    return unpacked_folder(path) if is_archive(path) else local_folder(path)


def write_archive(folder: Path, path: Path) -> None:
    """Writes the files of a sealed folder as a tar, its manifest first; the bytes depend on the files alone."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    # First, so that a reader can tell from the first block whether its cache has the rest.
    names.sort(key=lambda name: name != MANIFEST_FILE)
    aside = path.with_name(path.name + ".part")
    try:
        # pax is ustar, but for what that cannot say: a file of more than 8 GiB.
        with tarfile.open(aside, "w:", format=tarfile.PAX_FORMAT) as archive:
            for name in names:
                info = tarfile.TarInfo(name)  # no owner, no time, mode 0644
                info.size = (folder / name).stat().st_size
                with (folder / name).open("rb") as file:
                    archive.addfile(info, file)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def unpacked_folder(path: str | Path) -> Path:
    """Returns the folder, below `cache_folder()`, with the files of a bundle's tar; errors as in `open_folder`."""
    where = str(path) if is_remote(str(path)) else str(Path(path).absolute())
    with _opened(where) as (file, state), _explained(where):
        archive = tarfile.TarFile(fileobj=cast(Any, _Headers(file, state[0])), copybufsize=_CHUNK_BYTES)
        content = _manifest(archive, file, where)
        parent = cache_folder() / "bundles" / hashlib.sha256(content).hexdigest()[:16]
        folder = parent / "bundle"
        # A tar with a mark is not compared with its manifest again; loading the folder compares that, each time.
        mark = parent / f".compared-{hashlib.sha256(f'{where} {state}'.encode()).hexdigest()[:16]}"
        if folder.is_dir() and mark.exists():
            return folder
        members = _members(archive, files_of(parse_manifest(content, where=where, kind="bundle")), where)
        _check_end(archive, file, where)
        with folder_aside(folder) as written:
            archive.fileobj = cast(Any, file)  # these are no headers
            archive.extractall(written, members.values(), filter="data")
            (written / MANIFEST_FILE).write_bytes(content)
            # Compares the hashes; names and sizes were right.
            try:
                read_manifest(written, kind="bundle")
            except CheckpointError as error:
                raise CheckpointError(str(error).replace(str(written), where)) from None
            with contextlib.suppress(OSError):  # it was unpacked already, from another tar or by another process
                written.rename(folder)
        mark.touch()
    return folder


@contextlib.contextmanager
def _opened(where: str) -> Iterator[tuple[BinaryIO, tuple[int, ...]]]:
    """Gives an open file that can seek, and its state: its size, and what else changes when the file does."""
    if not is_remote(where):
        try:
            file = open(where, "rb", opener=regular_only)  # noqa: SIM115 - closed below
        except FileNotFoundError:
            raise NoSuchFolderError(f"{where}: no bundle: there is no such file") from None
        with file:
            status = os.fstat(file.fileno())
            yield file, (status.st_size, status.st_dev, status.st_ino, status.st_mtime_ns)
        return
    with explaining(where):
        filesystem, place = from_uri(where)
        info = filesystem.get_file_info(place)
        if info.type != FileType.File:
            raise NoSuchFolderError(f"{where}: no bundle: there is no such file")
        with filesystem.open_input_file(place) as stored:
            yield cast(BinaryIO, stored), (info.size, info.mtime_ns)


class _Headers:
    """The file of a tar while its headers are read: no more than `_MOST_HEADER_BYTES` of it."""

    # The headers themselves say how long they are, so that a few bytes could ask for any amount of memory.
    def __init__(self, file: BinaryIO, num_bytes: int) -> None:
        self._file, self._num_bytes = file, num_bytes
        self._num_left = _MOST_HEADER_BYTES
        self.tell = file.tell

    def seek(self, position: int) -> None:
        # After a negative size, or one beyond the end; a store refuses to seek there.
        if not 0 <= position <= self._num_bytes:
            raise tarfile.ReadError("unexpected end of data")
        self._file.seek(position)

    def read(self, num_bytes: int) -> bytes:
        if not 0 <= num_bytes <= self._num_left:
            raise tarfile.ReadError(f"expected at most {_MOST_HEADER_BYTES} bytes of headers, found more")
        self._num_left -= num_bytes
        content = self._file.read(num_bytes)
        if _LONG_NUMBER.search(content):
            raise tarfile.ReadError("a header holds a number that is too large")
        return content


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except tarfile.FilterError as error:
        raise CheckpointError(f"{where}: {error}") from None
    # tarfile lets the last three through; each extended header leads to the next one in a call of its own.
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        reason = "too many headers of one member" if isinstance(error, RecursionError) else error
        raise CheckpointError(f"{where}: not a whole, uncompressed tar file: {reason}") from None


def _files(archive: tarfile.TarFile, where: str) -> Iterator[tarfile.TarInfo]:
    """Yields each file of a tar, without its time and mode; anything but files and folders inside it is an error."""
    for member in archive:
        safe = tarfile.data_filter(member, str(cache_folder()))
        if safe is None or safe.isdir():
            continue  # folders are made where files need them
        if not safe.isreg() or safe.issparse():
            kind = "sparse one" if safe.issparse() else "link"
            raise CheckpointError(f"{where}: {member.name!r}: expected a regular file, found a {kind}")
        # `tar -cf x.tar .` puts `./` before each name. None: the time and mode of a new file.
        yield safe.replace(name=PurePosixPath(safe.name).as_posix(), mtime=cast(Any, None), mode=cast(Any, None))


def _manifest(archive: tarfile.TarFile, file: BinaryIO, where: str) -> bytes:
    for member in _files(archive, where):
        if member.name == MANIFEST_FILE:
            if not 0 <= member.size <= MOST_DOCUMENT_BYTES:
                raise CheckpointError(f"{where}: {MANIFEST_FILE}: {member.size} bytes are too many for a manifest")
            # By the file itself: the manifest is no header, and is not counted as one.
            position = file.tell()
            file.seek(member.offset_data)
            content = file.read(member.size)
            if len(content) < member.size:
                raise tarfile.ReadError("unexpected end of data")
            # Where tarfile goes on.
            file.seek(position)
            return content
    raise CheckpointError(f"{where}: no bundle: {MANIFEST_FILE} is missing at the top of the tar")


def _members(
    archive: tarfile.TarFile, entries: Mapping[str, Mapping[str, object]], where: str
) -> dict[str, tarfile.TarInfo]:
    """Returns the files of a tar by their names, the manifest aside, each as long as the manifest says."""
    members: dict[str, tarfile.TarInfo] = {}
    for member in _files(archive, where):
        name = member.name
        if name in members:  # which of the two is meant, readers of tars disagree on
            raise CheckpointError(f"{where}: {name!r} is in the tar twice")
        members[name] = member
        if name == MANIFEST_FILE:
            continue
        if name not in entries:
            raise CheckpointError(f"{where}: {name!r}: in the tar, but not in its manifest")
        if member.size != entries[name]["bytes"]:
            expected = entries[name]["bytes"]
            raise CheckpointError(f"{where}: {name!r}: {expected} bytes expected, {member.size} found")
    del members[MANIFEST_FILE]
    return members


def _check_end(archive: tarfile.TarFile, file: BinaryIO, where: str) -> None:
    """Checks that nothing but padding follows the last member."""
    # tarfile ends where it finds no header; another program could find more files there.
    file.seek(archive.offset)
    rest = file.read(_MOST_PADDING_BYTES + 1)
    if len(rest) > _MOST_PADDING_BYTES or rest.strip(b"\0"):
        raise CheckpointError(f"{where}: expected the tar to end at byte {archive.offset}, found more")

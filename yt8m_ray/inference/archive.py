"""A bundle as one uncompressed tar file, and its way back to a folder.

Lives here: writing the file, always the same bytes for the same folder; reading one that anybody may have made. Does
not live here: what the files mean (`bundle`). A tar is unpacked once a machine, into the cache, and whatever takes a
bundle's folder takes the tar. It could be read in place as well, but each reader of a folder would have to know of
offsets.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

from pyarrow.fs import FileType

from yt8m_ray.data.remote import is_remote
from yt8m_ray.data.storage import explaining, from_uri, split_query
from yt8m_ray.sealed_folder import (
    MANIFEST_FILE,
    CheckpointError,
    FileEntry,
    NoSuchFolderError,
    cache_folder,
    files_of,
    local_folder,
    parse_manifest,
)

SUFFIX = ".tar"

_CHUNK_BYTES = 8 << 20
"""Of a read: from an object store each costs a round trip, and more at once would only be memory."""

_MOST_MEMBERS = 10_000
_MOST_MANIFEST_BYTES = 16 << 20
_KINDS = {
    tarfile.LNKTYPE: "hard link",
    tarfile.SYMTYPE: "symbolic link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "pipe",
}


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
        CheckpointError: a tar or a copy is not intact.
        OSError: the store or the tar cannot be read, or the cache not be written.
    """
    return unpacked_folder(path) if is_archive(path) else local_folder(path)


def write_archive(folder: Path, path: Path) -> None:
    """Writes the files of a sealed folder as a tar, its manifest first; the bytes depend on the files alone."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
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
    """Returns the folder with the files of a bundle's tar, which is unpacked once a machine, below `cache_folder()`.

    The folder is named by the contents of the manifest. A tar is compared with it, file by file, when it is unpacked,
    and again when its size or time of change is another; the folder itself is compared whenever it is loaded.

    Args:
        path: A path or URI.

    Raises:
        NoSuchFolderError: there is no such file.
        CheckpointError: it is no tar, or not exactly the files of its manifest; nothing of it is kept.
        OSError: it cannot be read, or the cache cannot be written.
    """
    where = str(path) if is_remote(str(path)) else str(Path(path).absolute())
    with _opened(where) as (file, state), _explained(where), tarfile.open(fileobj=file, mode="r:") as archive:
        content = _read_manifest(archive, where, state.num_bytes)
        parent = cache_folder() / "bundles" / hashlib.sha256(content).hexdigest()[:16]
        folder = parent / "bundle"
        mark = parent / f".compared-{hashlib.sha256(f'{where} {state}'.encode()).hexdigest()[:16]}"
        if folder.is_dir() and mark.exists():
            return folder
        members = _members(archive, where, state.num_bytes)
        entries = files_of(parse_manifest(content, where=where, kind="bundle"))
        _compare(members, entries, where)
        parent.mkdir(parents=True, exist_ok=True)
        if folder.is_dir():
            _copy(archive, members, entries, where, None)
        else:
            with tempfile.TemporaryDirectory(dir=parent, prefix=".aside-") as aside:
                written = Path(aside) / folder.name
                written.mkdir()
                _copy(archive, members, entries, where, written)
                (written / MANIFEST_FILE).write_bytes(content)
                with contextlib.suppress(OSError):  # another process was faster
                    written.rename(folder)
        mark.touch()
    return folder


class _State(NamedTuple):
    """What is another when a file is: its size, and whatever else its place knows."""

    num_bytes: int
    others: tuple[int | None, ...]


@contextlib.contextmanager
def _opened(where: str) -> Iterator[tuple[BinaryIO, _State]]:
    """Gives an open file that can seek, and its state."""
    if not is_remote(where):
        try:
            file = open(where, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            raise NoSuchFolderError(f"{where}: no bundle: there is no such file") from None
        with file:
            status = os.fstat(file.fileno())
            yield file, _State(status.st_size, (status.st_dev, status.st_ino, status.st_mtime_ns))
        return
    with explaining(where):
        filesystem, place = from_uri(where)
        info = filesystem.get_file_info(place)
        if info.type != FileType.File:
            raise NoSuchFolderError(f"{where}: no bundle: there is no such file")
        with filesystem.open_input_file(place) as stored:
            yield cast(BinaryIO, stored), _State(info.size, (info.mtime_ns,))


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except tarfile.TarError as error:
        raise CheckpointError(f"{where}: not a whole, uncompressed tar file: {error}") from None


def _heads(archive: tarfile.TarFile, where: str, num_bytes: int) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yields each member with its name, once it is known to lie inside the folder and to end inside the tar."""
    for number, member in enumerate(archive):
        if number >= _MOST_MEMBERS:
            raise CheckpointError(f"{where}: expected at most {_MOST_MEMBERS} members, found more")
        end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if member.isreg() and end > num_bytes:
            raise CheckpointError(f"{where}: {member.name!r}: expected to end at byte {end}, found {num_bytes} bytes")
        yield _name(member, where), member


def _read_manifest(archive: tarfile.TarFile, where: str, num_bytes: int) -> bytes:
    """Returns the manifest, which is the first member of a tar that `write_archive` made."""
    for name, member in _heads(archive, where, num_bytes):
        if name == MANIFEST_FILE:
            if member.size > _MOST_MANIFEST_BYTES:
                raise CheckpointError(f"{where}: {MANIFEST_FILE}: {member.size} bytes are too many for a manifest")
            _check_kind(member, where)
            content: bytes = _stream(archive, member).read()
            return content
    raise CheckpointError(f"{where}: no bundle: {MANIFEST_FILE} is missing at the top of the tar")


def _members(archive: tarfile.TarFile, where: str, num_bytes: int) -> dict[str, tarfile.TarInfo]:
    """Returns the files of a tar by their names, the manifest aside, after a look at the head of each member."""
    members: dict[str, tarfile.TarInfo] = {}
    for name, member in _heads(archive, where, num_bytes):
        if member.isdir():
            continue  # folders are made where files need them
        _check_kind(member, where)
        if name in members:
            raise CheckpointError(f"{where}: {name!r} is in the tar twice")
        members[name] = member
    del members[MANIFEST_FILE]
    return members


def _name(member: tarfile.TarInfo, where: str) -> str:
    """Returns the name of a member without the `./` that `tar -cf x.tar .` puts before it."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise CheckpointError(f"{where}: {member.name!r} lies outside the folder")
    return name.as_posix()


def _compare(members: Mapping[str, tarfile.TarInfo], entries: Mapping[str, FileEntry], where: str) -> None:
    for name in sorted(entries.keys() | members.keys()):
        if name not in members:
            raise CheckpointError(f"{where}: {name!r}: listed in the manifest, but missing")
        if name not in entries:
            raise CheckpointError(f"{where}: {name!r}: in the tar, but not in its manifest")
        if members[name].size != entries[name].num_bytes:
            raise CheckpointError(
                f"{where}: {name!r}: {entries[name].num_bytes} bytes expected, {members[name].size} found"
            )


def _copy(
    archive: tarfile.TarFile,
    members: Mapping[str, tarfile.TarInfo],
    entries: Mapping[str, FileEntry],
    where: str,
    folder: Path | None,
) -> None:
    """Hashes every file, and writes it below `folder` on the way; None only hashes."""
    for name, member in members.items():
        digest = hashlib.sha256()
        with contextlib.ExitStack() as stack:
            target = None
            if folder is not None:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                target = stack.enter_context((folder / name).open("xb"))
            stream = stack.enter_context(_stream(archive, member))
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                if target is not None:
                    target.write(chunk)
        if digest.hexdigest() != entries[name].sha256:
            raise CheckpointError(f"{where}: {name!r}: the contents do not match the hash in the manifest")


def _check_kind(member: tarfile.TarInfo, where: str) -> None:
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        kind = _KINDS.get(member.type, "special file")
        raise CheckpointError(f"{where}: {member.name!r}: expected a regular file, found a {kind}")


def _stream(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    """Returns the bytes of a regular file as a stream, which fails where the tar ends too early."""
    return archive.extractfile(member)

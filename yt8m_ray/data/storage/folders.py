"""Folders in an object store: listed, uploaded, downloaded, removed. One is complete when its last file is there."""

from __future__ import annotations

import fnmatch
from pathlib import Path, PurePosixPath

from pyarrow.fs import FileSelector, FileType

from yt8m_ray.data.storage.filesystem import explaining, from_uri, read_bytes, split_query


def is_remote(path: str) -> bool:
    """Returns whether a path is a URI, of an object store mostly."""
    return "://" in path


def join_uri(uri: str, *names: str) -> str:
    """Returns the URI of a file or folder in the folder `uri`, with the same query."""
    place, query = split_query(uri)
    return "/".join([place.rstrip("/"), *names]) + query


def read_file(uri: str) -> bytes | None:
    """Returns a whole file, None where there is none; its errors, and the others', are those of `explained`."""
    try:
        return read_bytes(uri)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def write_file(content: bytes, uri: str) -> None:
    """Writes a whole file; it is there when this returns, and not before."""
    # An object store shows an object only once its upload is complete, so nothing is written aside.
    with explaining(uri):
        filesystem, path = from_uri(uri)
        with filesystem.open_output_stream(path) as file:
            file.write(content)


def upload_folder(folder: Path, uri: str, *, last: str) -> None:
    """Copies the files of a folder and of those in it, the folder's own file `last` behind all others."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    # There is no rename of folders: the file that seals one says that all others are there.
    for path in sorted(files, key=lambda path: (path == folder / last, path)):
        write_file(path.read_bytes(), join_uri(uri, *path.relative_to(folder).parts))


def download_folder(uri: str, folder: Path) -> None:
    """Copies the files of a folder, and of those in it, into an existing one."""
    for file in _files_below(uri):
        content = read_file(join_uri(uri, *file.parts))
        if content is not None:  # else another process has removed it since
            copy = folder / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)


def list_folders(uri: str, pattern: str, *, last: str) -> list[str]:
    """Returns the sorted names below a URI that match `pattern` and hold the file `last`."""
    folders = [file.parent.name for file in _files_below(uri) if file.name == last]
    return sorted(fnmatch.filter(folders, pattern))


def remove_folder(uri: str, *, first: str) -> None:
    """Removes a folder, `first` before all other files."""
    with explaining(uri):
        filesystem, path = from_uri(uri)
        # Without the file that seals it nobody takes what is left of the folder for a whole one.
        if filesystem.get_file_info(f"{path}/{first}").type == FileType.File:
            filesystem.delete_file(f"{path}/{first}")
        filesystem.delete_dir(path)


def _files_below(uri: str) -> list[PurePosixPath]:
    with explaining(uri):
        filesystem, path = from_uri(uri)
        found = filesystem.get_file_info(FileSelector(path, allow_not_found=True, recursive=True))
    files = [PurePosixPath(info.path) for info in found if info.type == FileType.File]
    return [file.relative_to(path.rstrip("/")) for file in files]

"""Whatever opens a path refuses at once what is no regular file."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve.http.tokens import TokenFile
from yt8m_ray.artifacts.archive import unpacked_folder
from yt8m_ray.artifacts.checkpoint import read_tensors
from yt8m_ray.artifacts.checkpoint_folders import load_config
from yt8m_ray.artifacts.folder_manifest import read_manifest
from yt8m_ray.artifacts.tensor_file import read_tensor_entries
from yt8m_ray.config.document import load_document
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.inspection.dataset_manifest import load_manifest
from yt8m_ray.data.labels.soft_label_files import SoftLabelIndex
from yt8m_ray.data.labels.video_weights import VideoWeights
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.data.storage.filesystem import open_stream, read_bytes
from yt8m_ray.inference.predictions.reader import open_predictions
from yt8m_ray.interop.variables import read_variables
from yt8m_ray.local_files import NotAFileError, read_document
from yt8m_ray.losses.class_weights import read_class_counts

READERS: dict[str, Callable[[Path], Any]] = {
    "shard": lambda path: open_stream(str(path)),
    "shard by a URI": lambda path: open_stream(f"file://{path}"),
    "small file": lambda path: read_bytes(str(path)),
    "config": lambda path: load_document(path, TrainConfig),
    "manifest of shards": load_manifest,
    "vocabulary": Vocabulary.load,
    "class counts": read_class_counts,
    "video weights": VideoWeights.load,
    "tar": unpacked_folder,
    "weights": read_tensors,
    "heads of weights": read_tensor_entries,
    "predictions": lambda path: open_predictions(str(path)),
    "variables": read_variables,
    "tokens": lambda path: TokenFile(str(path)),
}
IN_FOLDERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "manifest of a checkpoint": ("manifest.json", lambda folder: read_manifest(folder, kind="checkpoint")),
    "config of a checkpoint": ("config.yaml", load_config),
    "index of soft labels": ("index.json", lambda folder: SoftLabelIndex.load(str(folder))),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.timeout(20)
def test_a_pipe_is_refused_before_anybody_writes_into_it(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "pipe.tar")

    with pytest.raises((ValueError, OSError), match=r"pipe\.tar: .*(found a named pipe|expected a|there is no)"):
        read(tmp_path / "pipe.tar")


@pytest.mark.parametrize(("name", "read"), IN_FOLDERS.values(), ids=IN_FOLDERS)
@pytest.mark.timeout(20)
def test_a_pipe_in_a_folder_is_refused_too(tmp_path: Path, name: str, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / name)

    with pytest.raises((ValueError, OSError), match=rf"{name}: .*found a named pipe"):
        read(tmp_path)


def test_a_socket_a_device_and_a_folder_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")

    for path, found in (("socket", "a socket"), ("/dev/zero", "a device")):
        with pytest.raises(NotAFileError, match=f"{path}: expected a regular file, found {found}"):
            read_document(path)
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        read_document(tmp_path)


def test_a_link_to_a_file_is_a_file_and_a_link_to_a_pipe_is_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    os.mkfifo(tmp_path / "pipe")
    for name in ("file", "pipe"):
        (tmp_path / f"{name}-link").symlink_to(tmp_path / name)

    assert read_document(tmp_path / "file-link") == b"content"
    with pytest.raises(NotAFileError):
        read_document(tmp_path / "pipe-link")


def test_a_document_is_read_up_to_a_bound(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")

    assert read_document(tmp_path / "file", most_bytes=5) == b"12345"
    with pytest.raises(NotAFileError, match="expected at most 4 bytes, found 5"):
        read_document(tmp_path / "file", most_bytes=4)

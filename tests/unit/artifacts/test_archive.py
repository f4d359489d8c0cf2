"""A bundle as a tar: the same bytes each time, the same answers, and no trust in what somebody else packed."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yt8m_ray.artifacts.archive import is_archive, unpacked_folder, write_archive
from yt8m_ray.artifacts.folder_manifest import CheckpointError, NoSuchFolderError
from yt8m_ray.inference.locate import locate_model
from yt8m_ray.inference.predictor import Predictor

Write = Callable[..., Path]
IS_SOAK = os.environ.get("YT8M_SOAK") == "1"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("YT8M_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(write_tiny_bundle: Write) -> Path:
    return write_tiny_bundle("folder")


@pytest.fixture
def archive(folder: Path, tmp_path: Path) -> Path:
    write_archive(folder, tmp_path / "bundle.tar")
    return tmp_path / "bundle.tar"


def repack(source: Path, target: Path, change: Callable[[tarfile.TarInfo], tarfile.TarInfo | None]) -> Path:
    """Copies a tar member by member; `change` may return another head, or None to leave the member out."""
    with tarfile.open(source) as old, tarfile.open(target, "w:") as new:
        for member in old:
            content = old.extractfile(member)
            assert content is not None
            changed = change(member)
            if changed is not None:
                new.addfile(changed, content)
    return target


def add(archive: Path, name: str, content: bytes = b"x", **facts: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in facts.items():
        setattr(info, key, value)
    with tarfile.open(archive, "a:") as file:
        file.addfile(info, io.BytesIO(content))


def change_last_byte(archive: Path, name: str) -> None:
    with tarfile.open(archive) as file:
        member = file.getmember(name)
    data = bytearray(archive.read_bytes())
    data[member.offset_data + member.size - 1] ^= 1
    archive.write_bytes(bytes(data))


def files_below(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()]


def test_the_bytes_depend_on_the_files_alone(folder: Path, archive: Path, tmp_path: Path) -> None:
    os.utime(folder / "vocabulary.csv", (1, 1))
    (folder / "vocabulary.csv").chmod(0o600)

    write_archive(folder, tmp_path / "again.tar")

    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()
    with tarfile.open(archive) as file:
        names = file.getnames()
        assert {(member.mtime, member.uid, member.uname, member.mode) for member in file} == {(0, 0, "", 0o644)}
    assert names[0] == "manifest.json" and names[1:] == sorted(names[1:])


def test_a_tar_has_the_version_and_the_answers_of_its_folder(folder: Path, archive: Path) -> None:
    from_tar, from_folder = Predictor.from_path(archive), Predictor.from_path(folder)

    assert from_tar.golden is not None
    found = from_tar.predict(from_tar.golden.videos)
    assert from_tar.version == from_folder.version
    assert torch.equal(found.scores, from_folder.predict(from_tar.golden.videos).scores)


def test_an_export_to_a_name_in_tar_is_one_file(write_tiny_bundle: Write, tmp_path: Path) -> None:
    path = write_tiny_bundle("one.tar")

    assert path.is_file() and Predictor.from_path(path).self_check() == 3
    checkpoints = {"one.tar-1", "one.tar-2"}
    assert {file.name for file in tmp_path.iterdir() if "one" in file.name} == {"one.tar", *checkpoints}


def test_a_tar_is_unpacked_once_and_a_copy_of_it_not_at_all(archive: Path, cache: Path, tmp_path: Path) -> None:
    first = locate_model(archive)
    written = (first / "bundle.yaml").stat().st_mtime_ns
    (tmp_path / "copy.tar").write_bytes(archive.read_bytes())

    assert locate_model(archive) == locate_model(tmp_path / "copy.tar") == first
    assert (first / "bundle.yaml").stat().st_mtime_ns == written
    assert first.is_relative_to(cache)


def test_a_tar_that_was_changed_after_it_was_unpacked_is_compared_again(archive: Path) -> None:
    unpacked_folder(archive)
    change_last_byte(archive, "vocabulary.csv")

    with pytest.raises(CheckpointError, match=r"bundle\.tar/vocabulary\.csv: the contents do not match the hash"):
        unpacked_folder(archive)


def test_a_tar_that_others_packed_with_folders_and_dots_is_welcome(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "plain.tar", "w") as file:
        file.add(folder, ".")

    assert Predictor.from_path(tmp_path / "plain.tar").self_check() == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil", "outside the destination"),
        ("members/../../evil", "outside the destination"),
        ("/tmp/evil", "'tmp/evil': in the tar, but not in its manifest"),  # as below any folder that tar unpacks to
    ],
)
def test_a_name_outside_the_folder_is_refused(archive: Path, cache: Path, name: str, message: str) -> None:
    add(archive, name)

    with pytest.raises(CheckpointError, match=rf"bundle\.tar: .*{message}"):
        unpacked_folder(archive)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (tarfile.SYMTYPE, "expected a regular file, found a link"),
        (tarfile.LNKTYPE, "expected a regular file, found a link"),
        (tarfile.CHRTYPE, "is a special file"),
        (tarfile.FIFOTYPE, "is a special file"),
        (b"Z", "is a special file"),
    ],
)
def test_a_link_or_a_device_is_refused(archive: Path, cache: Path, kind: bytes, named: str) -> None:
    add(archive, "members/0/other", b"", type=kind, linkname="bundle.yaml")

    with pytest.raises(CheckpointError, match=rf"bundle\.tar: 'members/0/other'.*{named}"):
        unpacked_folder(archive)
    assert not cache.exists()


def test_a_manifest_that_is_a_link_is_refused(archive: Path, tmp_path: Path) -> None:
    changed = repack(archive, tmp_path / "x.tar", lambda member: None if member.name == "manifest.json" else member)
    add(changed, "manifest.json", b"", type=tarfile.SYMTYPE, linkname="bundle.yaml")

    with pytest.raises(CheckpointError, match=r"'manifest\.json': expected a regular file, found a link"):
        unpacked_folder(changed)


@pytest.mark.parametrize("name", ["bundle.yaml", "./bundle.yaml", "members//0/model.safetensors"])
def test_a_file_that_is_there_twice_is_refused(archive: Path, name: str) -> None:
    add(archive, name)

    with pytest.raises(CheckpointError, match="is in the tar twice"):
        unpacked_folder(archive)


def test_a_file_that_the_manifest_does_not_have_is_refused(archive: Path) -> None:
    add(archive, "extra.py")

    with pytest.raises(CheckpointError, match=r"'extra\.py': in the tar, but not in its manifest"):
        unpacked_folder(archive)


@pytest.mark.parametrize("name", ["manifest.json", "members/1/model.safetensors"])
def test_a_missing_file_is_named(archive: Path, tmp_path: Path, name: str) -> None:
    changed = repack(archive, tmp_path / "x.tar", lambda member: None if member.name == name else member)

    with pytest.raises(CheckpointError, match=rf"{name}.*missing"):
        unpacked_folder(changed)


def test_a_size_that_is_not_the_manifests_is_refused_before_a_byte_is_written(
    archive: Path, cache: Path, tmp_path: Path
) -> None:
    def shorten(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.size -= member.name == "vocabulary.csv"
        return member

    changed = repack(archive, tmp_path / "x.tar", shorten)

    with pytest.raises(CheckpointError, match=r"'vocabulary\.csv': \d+ bytes expected, \d+ found"):
        unpacked_folder(changed)
    assert not cache.exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_tar_that_was_cut_short_is_refused(archive: Path, cache: Path, share: float) -> None:
    with tarfile.open(archive) as file:
        *_, last = file
    data = archive.read_bytes()
    archive.write_bytes(data[: int((last.offset_data + last.size - 1) * share)])

    with pytest.raises(CheckpointError, match=r"bundle\.tar: "):
        unpacked_folder(archive)
    assert files_below(cache) == []


def test_a_member_that_ends_behind_the_tar_is_refused(archive: Path) -> None:
    head = tarfile.TarInfo("huge")
    head.size = 1 << 30
    archive.write_bytes(head.tobuf() + archive.read_bytes())

    with pytest.raises(CheckpointError, match=r"bundle\.tar: not a whole, uncompressed tar file: unexpected end"):
        unpacked_folder(archive)


def pax_header(records: bytes) -> bytes:
    head = tarfile.TarInfo("pax")
    head.type, head.size = tarfile.XHDTYPE, len(records)
    return head.tobuf() + records + bytes(-len(records) % 512)


def negative_size() -> bytes:
    head = tarfile.TarInfo("back")
    head.size = -(1 << 20)
    return head.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "headers",
    [
        pax_header(b"99999999999999999999 path=a\n"),
        pax_header(b"9999999999999999999 path=a\n"),
        pax_header(b"0 path=a\n"),
        pax_header(b"1" * 900_000),  # tarfile's search for a character set takes time by the square of these
        pax_header(b"25 GNU.sparse.map=no,thing\n"),
        pax_header(b"10 path=a\n") * 2000,  # each leads to the next one, in a call of its own
        pax_header(b"x" * (2 << 20)),
        tarfile.TarInfo("folder").tobuf().replace(b"0000644", b"9999999"),
        negative_size(),
    ],
    ids=["20 digits", "19 digits", "no length", "digits", "sparse", "chain", "long", "checksum", "negative size"],
)
def test_headers_that_would_cost_more_than_they_may_are_refused(archive: Path, cache: Path, headers: bytes) -> None:
    archive.write_bytes(headers + archive.read_bytes())

    with pytest.raises(CheckpointError, match=r"bundle\.tar: "):
        unpacked_folder(archive)
    assert not cache.exists()


def test_a_sparse_member_is_refused(archive: Path, cache: Path) -> None:
    head = tarfile.TarInfo("sparse")  # as GNU tar's --sparse writes it: a terabyte in one block
    head.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(head.tobuf(tarfile.GNU_FORMAT))
    block[386:410], block[482], block[483:495] = b"%011o\0%011o\0" % (0, 0), 0, b"%011o\0" % (1 << 32)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    archive.write_bytes(bytes(block) + archive.read_bytes())

    with pytest.raises(CheckpointError, match=r"'sparse': expected a regular file"):
        unpacked_folder(archive)
    assert not cache.exists()


@pytest.mark.parametrize("rest", [b"x", b"\0" * 1024 + b"x", tarfile.TarInfo("more").tobuf()], ids=["x", "late", "tar"])
def test_whatever_is_behind_the_end_of_the_tar_is_refused(archive: Path, cache: Path, rest: bytes) -> None:
    with archive.open("ab") as file:
        file.write(rest)

    with pytest.raises(CheckpointError, match=r"bundle\.tar: expected the tar to end at byte \d+, found more"):
        unpacked_folder(archive)
    assert files_below(cache) == []


def test_a_pipe_that_is_called_tar_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")

    with pytest.raises(OSError, match=r"pipe\.tar: expected a regular file, found a named pipe"):
        unpacked_folder(tmp_path / "pipe.tar")


def test_a_changed_byte_in_the_weights_leaves_nothing_behind(archive: Path, cache: Path) -> None:
    change_last_byte(archive, "members/1/model.safetensors")

    with pytest.raises(CheckpointError, match=r"bundle\.tar/members/1/model\.safetensors: the contents do not match"):
        Predictor.from_path(archive)
    assert files_below(cache) == []


def test_a_compressed_tar_and_other_files_are_refused(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "zipped.tar", "w:gz") as file:
        file.add(folder, ".")
    (tmp_path / "text.tar").write_text("no tar at all")
    (tmp_path / "empty.tar").touch()

    for name in ("zipped", "text", "empty"):
        with pytest.raises(CheckpointError, match=f"{name}.tar: not a whole, uncompressed tar file: "):
            unpacked_folder(tmp_path / f"{name}.tar")


def test_a_tar_of_a_checkpoint_is_no_bundle(save_tiny_checkpoint: Write, tmp_path: Path) -> None:
    write_archive(save_tiny_checkpoint("a"), tmp_path / "a.tar")

    with pytest.raises(CheckpointError, match="expected a bundle, found a checkpoint"):
        locate_model(tmp_path / "a.tar")


def test_a_tar_that_is_not_there_is_a_mistake_in_the_arguments(tmp_path: Path) -> None:
    with pytest.raises(NoSuchFolderError, match=r"none\.tar: there is no such file; .* holds nothing"):
        locate_model(tmp_path / "none.tar")


def test_a_folder_may_be_called_tar_and_a_uri_may_have_a_query(tmp_path: Path) -> None:
    (tmp_path / "x.tar").mkdir()

    assert not is_archive(tmp_path / "x.tar")
    assert is_archive(tmp_path / "y.tar")
    assert is_archive("s3://bucket/y.tar?endpoint_override=127.0.0.1:9000&scheme=http")
    assert not is_archive("s3://bucket/y")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=2000 if IS_SOAK else 15)
@given(data=st.data())
def test_whatever_byte_changes_the_tar_is_refused_or_means_the_same(
    archive: Path, folder: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(archive.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    (tmp_path / "changed.tar").write_bytes(bytes(content))

    try:
        unpacked = unpacked_folder(tmp_path / "changed.tar")
    except ValueError as error:
        assert "changed.tar" in str(error)
    else:
        for file in files_below(folder):  # all but the manifest, which is its own witness: another one, another version
            if file.name != "manifest.json":
                assert (unpacked / file.relative_to(folder)).read_bytes() == file.read_bytes()

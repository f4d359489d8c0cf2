"""Files as others write them: packed, with a byte order mark, quoted; and what is no sound file of its kind."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from yt8m_ray.inference.predictions import file_content
from yt8m_ray.inference.predictions.file_content import open_text
from yt8m_ray.inference.predictions.merge import merge_predictions

HEADER = "VideoId,LabelConfidencePairs\n"
VIDEOS = {f"v{number}": {number: 0.9, number + 1: 0.5} for number in range(20)}
TRUTH = "VideoId,Labels\n" + "".join(f"{video},{next(iter(pairs))}\n" for video, pairs in VIDEOS.items())


def pairs_of(video: str) -> str:
    return " ".join(f"{class_id} {score:g}" for class_id, score in VIDEOS[video].items())


PLAIN = HEADER + "".join(f"{video},{pairs_of(video)}\n" for video in VIDEOS)
QUOTED = '"VideoId","LabelConfidencePairs"\r\n' + "".join(f'"{video}","{pairs_of(video)}"\r\n' for video in VIDEOS)
OBJECTS = [
    {"video_id": video, "class_indexes": list(pairs), "predictions": list(pairs.values())}
    for video, pairs in VIDEOS.items()
]


def zipped(data: bytes, *others: str, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("submission.csv", data)
        for name in others:
            archive.writestr(name, b"x")
    return file.getvalue()


WAYS: dict[str, bytes] = {
    "a byte order mark": codecs.BOM_UTF8 + PLAIN.encode(),
    "UTF-16 of Windows": PLAIN.replace("\n", "\r\n").encode("utf-16"),
    "UTF-16, the other end first": codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be"),
    "gzip": gzip.compress(PLAIN.encode()),
    "gzip in two members": gzip.compress(PLAIN[:100].encode()) + gzip.compress(PLAIN[100:].encode()),
    "gzip of a byte order mark": gzip.compress(codecs.BOM_UTF8 + PLAIN.encode()),
    "zip": zipped(PLAIN.encode()),
    "a zip of macOS": zipped(PLAIN.encode(), "__MACOSX/._submission.csv"),
    "a zip that only holds": zipped(PLAIN.encode(), method=zipfile.ZIP_STORED),
    "quotes": QUOTED.encode(),
    "quotes behind a byte order mark": codecs.BOM_UTF8 + QUOTED.encode(),
    "quotes in gzip": gzip.compress(QUOTED.encode()),
    "quotes around some fields": PLAIN.replace("v3,3 0.9 4 0.5", '"v3","3 0.9 4 0.5"').encode(),
    "empty lines at the end": PLAIN.encode() + b"\n\n\n",
    "empty lines at the end, of Windows": PLAIN.replace("\n", "\r\n").encode() + b"\r\n\r\n",
    "many empty lines": PLAIN.encode() + b"\n" * 200_000,
    "quotes and empty lines": QUOTED.encode() + b"\r\n",
    "JSON lines and empty lines": "".join(json.dumps(each) + "\n" for each in OBJECTS).encode() + b"\n \n",
    "JSON lines in gzip": gzip.compress("".join(json.dumps(each) + "\n" for each in OBJECTS).encode()),
    "a JSON array": json.dumps(OBJECTS).encode(),
    "a JSON array over many lines": b"\n " + json.dumps(OBJECTS, indent=2).encode() + b"\n",
    "a JSON array in zip": zipped(json.dumps(OBJECTS).encode()),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_file_is_read_as_the_plain_one_is(tmp_path: Path, way: str) -> None:
    (tmp_path / "p").write_bytes(WAYS[way])

    merge_predictions([str(tmp_path / "p")], output=str(tmp_path / "o.csv"))

    assert (tmp_path / "o.csv").read_text() == PLAIN


@pytest.mark.parametrize("way", WAYS)
def test_videos_of_another_order_are_found(tmp_path: Path, way: str) -> None:
    (tmp_path / "p").write_bytes(WAYS[way])
    header, *lines = PLAIN.splitlines(keepends=True)
    (tmp_path / "first.csv").write_text("".join([header, *random.Random(0).sample(lines, len(lines))]))

    merge_predictions([str(tmp_path / "first.csv"), str(tmp_path / "p")], output=str(tmp_path / "o.csv"))

    assert (tmp_path / "o.csv").read_text() == (tmp_path / "first.csv").read_text()


@pytest.mark.parametrize(
    "pack",
    [
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: gzip.compress(text.encode()),
        lambda text: zipped(text.encode()),
        lambda text: "".join(
            f'"{line.replace(",", chr(34) + "," + chr(34))}"\n' for line in text.splitlines()
        ).encode(),
    ],
    ids=["a byte order mark", "gzip", "zip", "quotes"],
)
def test_ground_truth_is_read_as_the_plain_one_is(tmp_path: Path, pack: Callable[[str], bytes]) -> None:
    (tmp_path / "p.csv").write_text(PLAIN)
    (tmp_path / "plain.csv").write_text(TRUTH)
    (tmp_path / "t").write_bytes(pack(TRUTH))

    found, expected = (
        merge_predictions([str(tmp_path / "p.csv")], truth=str(tmp_path / name)) for name in ("t", "plain.csv")
    )

    assert found == expected and found["hit_at_1"] == 1.0


def test_an_id_may_hold_what_quotes_are_for(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('"a,""b""",1 0.5\nc,2 0.5\n')

    merge_predictions([str(tmp_path / "p.csv")], output=str(tmp_path / "o.parquet"))
    merge_predictions([str(tmp_path / "o.parquet"), str(tmp_path / "p.csv")], output=str(tmp_path / "o2.parquet"))

    with pytest.raises(ValueError, match=r"""video id 'a,"b"' holds a comma, a quote or a line break"""):
        merge_predictions([str(tmp_path / "o2.parquet")], output=str(tmp_path / "o.csv"))


def test_a_quoted_id_over_two_lines_counts_both(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('"a\n1",1 0.5\nb,1 0.5\n"a\n1",2 0.5\n')

    with pytest.raises(ValueError, match=r"video 'a\\n1' is there twice: line 2, line 5"):
        merge_predictions([str(tmp_path / "p.csv")], output=str(tmp_path / "o.parquet"))


BAD: dict[str, tuple[bytes, str]] = {
    "a gzip that is cut": (gzip.compress(PLAIN.encode())[:-9], "not a sound file of its kind: Compressed file ended"),
    "a gzip with a wrong checksum": (gzip.compress(PLAIN.encode())[:-8] + bytes(8), "not a sound file .*: CRC check"),
    "a zip that is cut": (zipped(PLAIN.encode())[:-30], "not a sound file of its kind: File is not a zip file"),
    "a zip of two files": (zipped(PLAIN.encode(), "other.csv"), "expected one file in the zip, found 2: submission"),
    "a zip packed otherwise": (zipped(PLAIN.encode(), method=zipfile.ZIP_BZIP2), "expected a file that is deflated"),
    "UTF-16 that ends within a character": (codecs.BOM_UTF16_LE + b"a", "not a sound file of its kind: .*truncated"),
    "a quote without its other": (HEADER.encode() + b'v1,"1 0.5\nv2,2 0.5\n', "line 3: unexpected end of data"),
    "three quoted fields": (b'"v1","1 0.5","2"\n', r"line 1: expected VIDEO_ID,.*, found 'v1,1 0\.5,2'"),
    "a quoted score that is none": (b'v0,1 1\n"v1","1 high"\n', "line 2: score 'high': expected a number"),
    "bytes that are no UTF-8": (b'"v\xff","1 0.5"\n', r"line 1: .* is not UTF-8"),
    "digits of another script": ("v1,1 0.5 ٣ 0.25\n".encode(), "line 1: class id '٣': expected an integer"),
    "digits in groups": (b"v1,1 0.5 1_0 0.25\n", "line 1: class id '1_0': expected an integer"),
    "an empty line before others": (PLAIN.encode() + b"\nv99,1 0.5\n", "line 22: expected VIDEO_ID,.*, found ''"),
    "objects around an empty line": (
        b'{"video_id": "a", "class_indexes": [], "predictions": []}\n\n{}',
        "line 2: expected a JSON object",
    ),
    "a key twice": (b'{"video_id": "a", "video_id": "b"}', "line 1: .*the key 'video_id' is there twice"),
    "empty lines alone": (b"\n\n", "the first line is empty"),
    "an array without an end": (json.dumps(OBJECTS).encode()[:-1], "object 21: the array has no end; expected , or ]"),
    "an array of numbers": (b"[1, 2]", "object 1: expected { or ], found '1'"),
    "an array without commas": (
        b'[{"video_id": "a", "class_indexes": [], "predictions": []} {}]',
        "object 2: expected ,",
    ),
    "an object that is cut": (json.dumps(OBJECTS).encode()[:-20], "object 20: expected a JSON object, found .*"),
    "something behind an array": (b"[] x", "object 1: expected nothing behind the array, found 'x'"),
    "an item without a video": (b'[{"class_indexes": []}]', "object 1: expected an object with video_id,"),
    "an endless depth": (b'[{"video_id": ' + b"[" * 100_000, "object 1: expected a JSON object"),
    "a score beyond all numbers": (
        b'{"video_id": "a", "class_indexes": [1], "predictions": [1%s]}' % (b"0" * 400),
        "line 1: a prediction has hundreds of digits",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_sound_file_is_told_with_its_place(tmp_path: Path, name: str) -> None:
    data, message = BAD[name]
    (tmp_path / "p").write_bytes(data)

    with pytest.raises(ValueError, match=rf"^{tmp_path}/p: .*{message}"):
        merge_predictions([str(tmp_path / "p")], output=str(tmp_path / "o.csv"))

    assert [path.name for path in tmp_path.iterdir()] == ["p"]


@pytest.mark.parametrize("pack", [gzip.compress, zipped], ids=["gzip", "zip"])
def test_what_grows_too_large_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(file_content, "FREE_BYTES", 1 << 16)
    data = pack(b" " * (4 << 20))
    (tmp_path / "bomb").write_bytes(data)
    limit = (1 << 16) + file_content.MOST_EXPANSION * len(data)

    with (
        pytest.raises(ValueError, match=rf"bomb: it expands to more than {limit} bytes"),
        open_text(str(tmp_path / "bomb")) as text,
    ):
        text.readline()


def test_a_parquet_file_in_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(gzip.compress(b"PAR1"))

    with pytest.raises(ValueError, match="a Parquet file is compressed in itself; unpack it"):
        merge_predictions([str(tmp_path / "p")], output=str(tmp_path / "o.csv"))


def test_an_array_is_read_object_by_object_over_chunks(tmp_path: Path) -> None:
    many = [{"video_id": f"x{n}", "class_indexes": list(range(50)), "predictions": [0.25] * 50} for n in range(8000)]
    (tmp_path / "p.json").write_text(json.dumps(many))
    assert (tmp_path / "p.json").stat().st_size > 3 << 20  # several chunks, whose ends are within objects

    merge_predictions([str(tmp_path / "p.json")], output=str(tmp_path / "o.csv"), top_k=1)

    assert (tmp_path / "o.csv").read_text() == HEADER + "".join(f"x{n},0 0.25\n" for n in range(8000))


def test_a_name_that_ends_in_gz_is_packed_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(PLAIN)
    for name in ("a.csv.gz", "b.csv.gz"):
        merge_predictions([str(tmp_path / "p.csv")], output=str(tmp_path / name))

    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()).decode() == PLAIN
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()

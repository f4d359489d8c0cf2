"""Lines of prediction files: numbers to the last bit as Python reads and writes them, and what is no line."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from yt8m_ray.inference.predictions.align_files import Alignment
from yt8m_ray.inference.predictions.reader import open_predictions
from yt8m_ray.inference.predictions.rows import Row
from yt8m_ray.inference.predictions.writer import CSV_HEADER, SubmissionWriter


def read(path: Path, content: bytes) -> list[Row]:
    path.write_bytes(content)
    return [row for _, row in open_predictions(str(path)).rows()]


def write(path: Path, rows: Sequence[Row]) -> bytes:
    with SubmissionWriter(str(path)) as writer:
        writer.write_rows(rows)
    return path.read_bytes().removeprefix(CSV_HEADER)


def pairs_of(row: Row) -> list[tuple[int, float]]:
    return list(zip(row.class_ids, row.scores, strict=True))


def texts(rng: random.Random) -> Iterator[str]:
    """Yields numbers as different programs write them, and some that no program does."""
    yield f"{rng.random() ** 8:g}"
    yield f"{rng.random():f}"
    yield repr(rng.random() * 10.0 ** rng.randint(-12, 3))
    yield repr(float(np.float32(rng.random())))
    yield f"{rng.random() * 10.0 ** rng.randint(-40, 40):.{rng.randint(0, 20)}e}".upper()
    yield f"{rng.randrange(10 ** rng.randint(1, 19))}e{rng.randint(-80, 80)}"
    yield f"{'0' * rng.randint(0, 3)}{rng.randrange(1000)}.{'0' * rng.randint(0, 20)}{rng.randrange(10**9)}"
    bits = struct.unpack("<d", rng.randbytes(7) + bytes([rng.randrange(128)]))[0]
    if math.isfinite(bits):
        yield repr(bits)


def test_numbers_are_read_as_python_reads_them_and_kept_to_the_last_bit(tmp_path: Path) -> None:
    rng = random.Random(0)
    numbers = [text for _ in range(1000) for text in texts(rng)]
    (tmp_path / "p.csv").write_text("".join(f"v{place},7 {text}\n" for place, text in enumerate(numbers)))

    videos = list(Alignment([open_predictions(str(tmp_path / "p.csv"))]))

    found = [row.scores[0] for video in videos for row in video.rows if row is not None]
    assert found == [float(text) for text in numbers]


def values(rng: random.Random) -> Iterator[float]:
    """Yields numbers whose digits are hard to round, among others."""
    yield rng.random()
    yield rng.random() ** 40
    yield float(np.float32(rng.random() ** 4))
    yield (float(f"{rng.random() ** 9:g}") + float(f"{rng.random() ** 9:g}")) / 2  # a mean, often halfway too
    yield rng.randrange(1 << 24) / 2.0 ** rng.randint(1, 60)  # often halfway between six digits and the next
    yield (rng.randrange(10**6) * 10 + 5) / 10 ** rng.randint(0, 12)
    yield rng.random() * 2.0 ** rng.randint(-1074, -1000)
    yield float(rng.randrange(10**7))
    yield rng.random() * 10.0 ** rng.randint(-300, 300)


def test_numbers_are_written_as_python_writes_them(tmp_path: Path) -> None:
    rng = random.Random(0)
    numbers = [0.0, 5e-324, 1.0, 0.5, 1e-5, 1e-4, 1e5, 1e6, 1.7e308]
    numbers += [value for _ in range(1000) for value in values(rng)]

    lines = write(tmp_path / "p.csv", [Row("v", [0], [value]) for value in numbers]).decode().splitlines()

    assert lines == [f"v,0 {value:g}" for value in numbers]


@pytest.mark.parametrize(
    "content",
    [
        b"a,1 0.5 2 0.25\nb,\nc,3 1\n",
        b"a,1 0.5 2 0.25\r\nb,\r\nc,3 1\r\n",
        b"a,1 0.5 2 0.25\nb,\nc,3 1",
        b"a, 1 0.5  2 .25 \nb, \nc,3 1.\n",
        b"a,1 5e-1 2 2.5E-01\nb,\nc,03 +1e0\n",
    ],
)
def test_what_is_harmless_about_a_line_changes_nothing(tmp_path: Path, content: bytes) -> None:
    rows = read(tmp_path / "p.csv", content)
    assert [row.video_id for row in rows] == ["a", "b", "c"]
    assert [pairs_of(row) for row in rows] == [[(1, 0.5), (2, 0.25)], [], [(3, 1.0)]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", r"expected VIDEO_ID,CLASS SCORE CLASS SCORE \.\.\., found ''"),
        (b"b", r"expected VIDEO_ID,.*, found 'b'"),
        (b",1 0.5", r"expected VIDEO_ID,.*, found ',1 0\.5'"),
        (b"b,1 0.5,2 0.5", r"expected VIDEO_ID,.*"),
        (b"b,1 0.5 2", r".*found 3 words behind the comma, an odd number"),
        (b"b,1 0.5 x 0.5", r"class id 'x': expected an integer"),
        (b"b,1.0 0.5", r"class id '1\.0': expected an integer"),
        (b"b,-1 0.5", r"class id -1 is out of range, valid are 0 to 1048575"),
        (b"b,1048576 0.5", r"class id 1048576 is out of range, .*"),
        (b"b,99999999999999999999 0.5", r"class id 9{20} is out of range, .*"),
        (b"b,1 half", r"score 'half': expected a number"),
        (b"b,1 nan", r"score nan: expected a number from 0 on"),
        (b"b,1 0.5 2 nan 3 0.25", r"score nan: expected a number from 0 on"),
        (b"b,1 inf", r"score inf: expected a number from 0 on"),
        (b"b,1 1e999", r"score inf: expected a number from 0 on"),
        (b"b,1 -0.5", r"score -0\.5: expected a number from 0 on"),
        (b"b,1 0.5 2 0.5 1 0.25", r"class 1 is there twice"),
        (b"b\xff,1 0.5", r".* is not UTF-8"),
        (b"b,1 0.5\r2 0.5", r"new-line character seen in unquoted field .*"),
    ],
)
def test_a_line_that_is_none_is_told_with_its_place(tmp_path: Path, line: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^\S+p\.csv: line 2: {message}$"):
        read(tmp_path / "p.csv", b"a,1 0.5\n" + line + b"\nc,1 0.5\n")


def test_scores_whose_sum_is_infinite_are_fine(tmp_path: Path) -> None:
    (row,) = read(tmp_path / "p.csv", b"a,1 1.7e308 2 1.7e308\n")
    assert pairs_of(row) == [(1, 1.7e308), (2, 1.7e308)]


def test_a_line_of_many_classes_is_read_and_written_whole(tmp_path: Path) -> None:
    expected = [(class_id, class_id % 8 / 8) for class_id in range(70_000)]
    text = "v" * 40_000 + "," + " ".join(f"{class_id} {score:g}" for class_id, score in expected) + "\n"
    rows = read(tmp_path / "p.csv", b"a,\n" + text.encode())
    assert pairs_of(rows[1]) == expected
    assert write(tmp_path / "o.csv", rows).decode() == "a,\n" + text

"""Lines of prediction files: numbers to the last bit as Python reads and writes them, and what is no line."""

from __future__ import annotations

import fractions
import io
import math
import random
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from yt8m_ray.inference.predictions.file_content import FileContent
from yt8m_ray.inference.predictions.mapped_lines import MappedLines
from yt8m_ray.inference.predictions.row_text import DONE, LineWriter, buffer_arrays, read_lines, write_lines
from yt8m_ray.inference.predictions.rows import MOST_CLASSES, PredictionRows, RowBuffer


def read(path: Path, content: bytes, *, is_scored: bool = True) -> PredictionRows:
    path.write_bytes(content)
    buffer = RowBuffer()
    lines = MappedLines(FileContent(str(path)), is_scored=is_scored, is_header=lambda _: False)
    while lines.read(buffer, 1000):
        pass
    return buffer.rows()


def pairs_of(rows: PredictionRows, row: int) -> list[tuple[int, float]]:
    first, last = rows.bounds[row], rows.bounds[row + 1]
    return list(zip(rows.class_ids[first:last].tolist(), rows.scores[first:last].tolist(), strict=True))


def write(scores: Sequence[float]) -> list[str]:
    """Returns how each score is written, one a line."""
    count = len(scores)
    rows = PredictionRows(
        np.full(count, ord("v"), np.uint8),
        np.arange(count + 1),
        np.zeros(count, np.int32),
        np.array(scores, np.float64),
        np.arange(count + 1),
    )
    file = io.BytesIO()
    LineWriter().write(rows, file)
    return [line.removeprefix("v,0 ") for line in file.getvalue().decode().splitlines()]


def texts(rng: random.Random) -> Iterator[str]:
    """Yields numbers as different programs write them, and some that no program does."""
    yield f"{rng.random() ** 8:g}"
    yield f"{rng.random():f}"
    yield repr(rng.random() * 10.0 ** rng.randint(-12, 3))
    yield repr(float(np.float32(rng.random())))
    yield f"{rng.random() * 10.0 ** rng.randint(-40, 40):.{rng.randint(0, 20)}e}".upper()
    yield f"{rng.randrange(10 ** rng.randint(1, 19))}e{rng.randint(-80, 80)}"
    yield f"{'0' * rng.randint(0, 3)}{rng.randrange(1000)}.{'0' * rng.randint(0, 20)}{rng.randrange(10**9)}"
    yield near_a_tie(rng)
    bits = struct.unpack("<d", rng.randbytes(7) + bytes([rng.randrange(128)]))[0]
    if math.isfinite(bits):
        yield repr(bits)


def near_a_tie(rng: random.Random) -> str:
    """Returns the first 16 to 18 digits of the number halfway between two doubles, or of its neighbour's."""
    value = rng.random() * 10.0 ** rng.randint(-20, 20)
    middle = (fractions.Fraction(value) + fractions.Fraction(math.nextafter(value, math.inf))) / 2
    num_digits = rng.randint(16, 18)
    exponent = num_digits - 1 - math.floor(math.log10(value))
    return f"{math.floor(middle * fractions.Fraction(10) ** exponent) + rng.randint(0, 1)}e{-exponent}"


def check_reading(path: Path, num_rounds: int) -> None:
    rng = random.Random(num_rounds)
    numbers = [text for _ in range(num_rounds) for text in texts(rng)]
    rows = read(path, "".join(f"v,7 {text}\n" for text in numbers).encode())
    wrong = [text for text, found in zip(numbers, rows.scores.tolist(), strict=True) if float(text) != found]
    assert wrong == []


def values(rng: random.Random) -> Iterator[float]:
    """Yields numbers whose digits are hard to round, among others."""
    yield rng.random()
    yield rng.random() ** 40
    yield float(np.float32(rng.random() ** 4))
    yield (float(f"{rng.random() ** 9:g}") + float(f"{rng.random() ** 9:g}")) / 2  # a mean, often halfway too
    yield rng.randrange(1 << 24) / 2.0 ** rng.randint(1, 60)  # often halfway between six digits and the next
    yield (rng.randrange(10**6) * 10 + 5) / 10 ** rng.randint(0, 12)
    power = 10.0 ** rng.randint(-20, 8)
    yield math.nextafter(power, rng.choice((0.0, math.inf)))
    yield rng.choice((0.9999995, 0.99999949999, 9.999995e-5, 99999.95)) * power
    yield rng.random() * 2.0 ** rng.randint(-1074, -1000)
    yield float(rng.randrange(10**7))
    yield rng.random() * 10.0 ** rng.randint(-300, 300)


def check_writing(num_rounds: int) -> None:
    rng = random.Random(num_rounds)
    numbers = [0.0, 5e-324, 1.0, 0.5, 1e-5, 1e-4, 1e5, 1e6, 1.7e308]
    numbers += [value for _ in range(num_rounds) for value in values(rng)]
    wrong = [value for value, found in zip(numbers, write(numbers), strict=True) if f"{value:g}" != found]
    assert wrong == []


def test_numbers_are_read_as_python_reads_them(tmp_path: Path) -> None:
    check_reading(tmp_path / "numbers.csv", 4_000)


def test_numbers_are_written_as_python_writes_them() -> None:
    check_writing(4_000)


@pytest.mark.soak
def test_millions_of_numbers_are_read_and_written_as_python_does(tmp_path: Path) -> None:
    check_reading(tmp_path / "numbers.csv", 1_000_000)
    check_writing(1_000_000)


def test_lines_of_the_published_scripts_never_wait_for_python() -> None:
    rng = random.Random(0)
    lines = [
        "abcd," + " ".join(f"{class_id} {rng.random() ** 9:{form}}" for class_id in rng.sample(range(4716), 20)) + "\n"
        for form in ("g", "f")
        for _ in range(500)
    ]
    data, buffer = np.frombuffer("".join(lines).encode(), np.uint8), RowBuffer(2000, 1 << 16)
    flags = np.zeros(MOST_CLASSES, np.uint8)
    found = read_lines(data, 0, np.empty(0, np.int64), 2000, True, flags, buffer_arrays(buffer), 0)
    assert found == (1000, len(data), DONE)
    assert not flags.any()


def test_means_of_two_files_never_wait_for_python() -> None:
    rng = random.Random(0)
    means = [(float(f"{rng.random() ** 9:g}") + float(f"{rng.random() ** 9:g}")) / 2 for _ in range(2000)]
    rows = np.zeros(0, np.uint8), np.zeros(2, np.int64), np.zeros(2000, np.int32), np.array(means), np.array([0, 2000])
    text = np.zeros(1 << 16, np.uint8)
    row, num_bytes, status = write_lines(rows, 0, True, text)
    assert (row, status) == (1, DONE)
    assert text[:num_bytes].tobytes().decode() == f",{' '.join(f'0 {mean:g}' for mean in means)}\n"


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
    assert [rows.video_id(row) for row in range(len(rows))] == ["a", "b", "c"]
    assert [pairs_of(rows, row) for row in range(3)] == [[(1, 0.5), (2, 0.25)], [], [(3, 1.0)]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", r"expected VIDEO_ID,CLASS SCORE CLASS SCORE \.\.\., found ''"),
        (b"b", r"expected VIDEO_ID,.*, found 'b'"),
        (b",1 0.5", r"expected VIDEO_ID,.*, found ',1 0\.5'"),
        (b'"b",1 0.5', r"expected VIDEO_ID,.*"),
        (b"b,1 0.5,2 0.5", r"expected VIDEO_ID,.*"),
        (b"b,1 0.5 2", r".*found 3 words behind the comma, an odd number"),
        (b"b,1 0.5 x 0.5", r"class id 'x': expected an integer"),
        (b"b,1.0 0.5", r"class id '1\.0': expected an integer"),
        (b"b,-1 0.5", r"class id -1 is out of range, valid are 0 to 1048575"),
        (b"b,1048576 0.5", r"class id 1048576 is out of range, .*"),
        (b"b,99999999999999999999 0.5", r"class id 9{20} is out of range, .*"),
        (b"b,1 half", r"score 'half': expected a number"),
        (b"b,1 nan", r"score nan: expected a number from 0 on"),
        (b"b,1 inf", r"score inf: expected a number from 0 on"),
        (b"b,1 1e999", r"score inf: expected a number from 0 on"),
        (b"b,1 -0.5", r"score -0\.5: expected a number from 0 on"),
        (b"b,1 0.5 2 0.5 1 0.25", r"class 1 is there twice"),
        (b"b\xff,1 0.5", r".* is not UTF-8"),
    ],
)
def test_a_line_that_is_none_is_told_with_its_place(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "p.csv"
    with pytest.raises(ValueError, match=rf"^\S+p\.csv: line 2: {message}$"):
        read(path, b"a,1 0.5\n" + line + b"\nc,1 0.5\n")


def test_flags_are_as_before_after_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(b"a,1 0.5 2 x\nb,1 0.5 2 0.25\n")
    lines = MappedLines(FileContent(str(path)), is_scored=True, is_header=lambda _: False)
    with pytest.raises(ValueError, match="line 1"):
        lines.read(RowBuffer(), 10)
    buffer = RowBuffer()
    lines.read_at(buffer, np.array([12]))
    assert pairs_of(buffer.rows(), 0) == [(1, 0.5), (2, 0.25)]


def test_rows_that_outgrow_the_buffer_are_read_whole(tmp_path: Path) -> None:
    expected = [(class_id, class_id / 8) for class_id in range(70_000)]
    text = "v" * 40_000 + "," + " ".join(f"{class_id} {score!r}" for class_id, score in expected) + "\n"
    rows = read(tmp_path / "p.csv", b"a,1 0.5\n" + text.encode())
    assert pairs_of(rows, 1) == expected
    assert len(rows.video_id(1)) == 40_000


def test_a_row_that_outgrows_the_writer_is_written_whole() -> None:
    count = 100_000
    rows = PredictionRows(
        np.frombuffer(b"ab", np.uint8),
        np.array([0, 1, 2]),
        np.arange(count, dtype=np.int32),
        np.full(count, 0.125),
        np.array([0, 0, count]),
    )
    file = io.BytesIO()
    LineWriter().write(rows, file)
    assert file.getvalue() == b"a,\nb," + b" ".join(b"%d 0.125" % class_id for class_id in range(count)) + b"\n"


@pytest.mark.parametrize("video_id", ["a,b", 'a"b', "a\nb", "a\rb"])
def test_an_id_that_the_csv_cannot_carry_is_refused(video_id: str) -> None:
    buffer = RowBuffer()
    buffer.append(b"fine", [1], [0.5])
    buffer.append(video_id.encode(), [1], [0.5])
    with pytest.raises(ValueError, match=r"video id .* holds a comma, a quote or a line break"):
        LineWriter().write(buffer.rows(), io.BytesIO())

"""JSON documents: nothing in them means two things, and none costs more than it may."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from yt8m_ray.json_document import append_json_line, parse_json, read_json_lines


def test_a_document_is_what_json_says() -> None:
    tree = {"a": [1, -2.5, "x", None, True, {"b": {}}], "ö": 2**63}

    assert parse_json(json.dumps(tree).encode(), where="x.json") == tree


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"files": 1, "kind": 2, "files": 3}', "the key 'files' is there twice"),
        (b'[{"a": {"b": 1, "b": 1}}]', "the key 'b' is there twice"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "an integer of 5000 digits; expected at most 20"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": 1', "line 1 column 8"),
        (b'"\xff"', "codec can't decode"),
        (b"", "Expecting value"),
    ],
)
def test_a_document_that_could_mislead_or_exhaust_is_refused_by_name(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^x\.json: not a JSON document: .*{message}"):
        parse_json(content, where="x.json")


def test_nan_is_read_where_a_program_may_have_written_it() -> None:
    assert str(parse_json('{"loss": NaN}', where="manifest.json", nan=True)["loss"]) == "nan"


def test_a_list_keeps_its_whole_lines_after_a_kill_and_takes_more(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    assert read_json_lines(path) == []
    for number in range(2):
        append_json_line(path, {"number": number})
    path.write_text(path.read_text()[:-4])

    assert read_json_lines(path) == [{"number": 0}]
    append_json_line(path, {"number": 2})
    assert read_json_lines(path) == [{"number": 0}, {"number": 2}]

"""The objects of a JSON array one by one, however many there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any

from yt8m_ray.inference.predictions.rows import RowError
from yt8m_ray.json_document import unique

MOST_CHARACTERS = 16 << 20
"""Of an object: a video's classes and scores take some kilobytes."""

_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")


def array_items(text: IO[str]) -> Iterator[Any]:
    """Yields the objects of an array; the text is read as it is needed.

    Raises:
        RowError: the text is no such array, after all objects before that place.
    """
    try:
        yield from _objects(text)
    except UnicodeDecodeError as error:
        raise RowError(f"not UTF-8: {error}") from None


def _objects(text: IO[str]) -> Iterator[Any]:
    decoder = json.JSONDecoder(object_pairs_hook=unique)
    buffer, position, expected = "", 0, "["
    while True:
        position = _end_of_space(buffer, position)
        if position == len(buffer):
            buffer, position = text.read(_CHUNK), 0
            if not buffer and expected:
                raise RowError(f"the array has no end; expected {' or '.join(expected)}")
            if not buffer:
                return
            continue
        found = buffer[position]
        if found not in expected:
            raise RowError(f"expected {' or '.join(expected) or 'nothing behind the array'}, found {found!r}")
        if found != "{":
            expected = {"[": "{]", ",": "{", "]": ""}[found]
            position += 1
            continue
        try:
            item, position = decoder.raw_decode(buffer, position)
        except (ValueError, RecursionError) as error:
            more = text.read(_CHUNK)
            if not more or len(buffer) - position > MOST_CHARACTERS:
                raise RowError(
                    f"expected a JSON object, found {buffer[position : position + 60]!r} ({error})"
                ) from None
            buffer, position = buffer[position:] + more, 0
            continue
        expected = ",]"
        yield item


def _end_of_space(buffer: str, position: int) -> int:
    match = _SPACE.match(buffer, position)
    assert match is not None
    return match.end()

"""The objects of a JSON array one by one, however many there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any

from yt8m_ray.inference.predictions.rows import RowError
from yt8m_ray.json_document import unique

# Of an object: a video's classes and scores take some kilobytes.
MOST_CHARACTERS = 16 << 20

_CHUNK = 1 << 20
_NOT_SPACE = re.compile(r"[^ \t\r\n]")


def array_items(text: IO[str]) -> Iterator[Any]:
    """Yields the objects of an array; the text is read as it is needed.

    Raises:
        RowError: the text is no such array, after all objects before that place.
        UnicodeDecodeError: it cannot be decoded.
    """
    decoder = json.JSONDecoder(object_pairs_hook=unique)
    buffer, position, expected = "", 0, "["
    while True:
        match = _NOT_SPACE.search(buffer, position)
        if match is None:
            buffer, position = text.read(_CHUNK), 0
            if not buffer and expected:
                raise RowError(f"the array has no end; expected {' or '.join(expected)}")
            if not buffer:
                return
            continue
        position, found = match.start(), match[0]
        if found not in expected:
            raise RowError(f"expected {' or '.join(expected) or 'nothing behind the array'}, found {found!r}")
        if found != "{":
            expected = {"[": "{]", ",": "{", "]": ""}[found]
            position += 1
            continue
        try:
            item, position = decoder.raw_decode(buffer, position)
        except (ValueError, RecursionError) as error:
            # No JSON, or an object that goes on in the next chunk: which of the two, more text shows.
            more = text.read(_CHUNK)
            if not more or len(buffer) - position > MOST_CHARACTERS:
                raise RowError(
                    f"expected a JSON object, found {buffer[position : position + 60]!r} ({error})"
                ) from None
            buffer, position = buffer[position:] + more, 0
            continue
        expected = ",]"
        yield item

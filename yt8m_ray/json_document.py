"""Strict JSON: one value a key, no NaN, bounded integers."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MOST_DIGITS = 20


def parse_json(content: bytes | str, *, where: str, nan: bool = False) -> Any:
    """Returns the value of a JSON document; `where` begins the error, `nan` allows NaN and Infinity.

    Raises:
        ValueError: it is malformed or nested too deeply, has a key twice, a number of more than 20 digits, or NaN.
    """
    try:
        refuse = None if nan else _refuse_constant
        return json.loads(content, object_pairs_hook=unique, parse_int=_integer, parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{where}: not a JSON document: {reason}") from None


def append_json_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Adds an entry to a list of which `read_json_lines` returns what was whole when the program ended."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the entries of a list, none where there is no file, but for a line that a kill cut short."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text and not text.endswith("\n"):
        # The next entry must not be appended to the cut line.
        path.write_text(text + "\n", encoding="utf-8")
    entries = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):  # the cut line
            entries.append(json.loads(line))
    return entries


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the object of these members; ValueError for a key that occurs twice."""
    found = dict(pairs)
    # JSON leaves open which of two members counts, and readers differ.
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice[:100]!r} is there twice")
    return found


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits; expected at most {_MOST_DIGITS}")
    return int(text)


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")

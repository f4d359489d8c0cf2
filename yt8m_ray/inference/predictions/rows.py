"""What a prediction file says of one video, and what makes it sound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

# Class ids are below: far beyond any vocabulary.
MOST_CLASSES = 1 << 20


class RowError(ValueError):
    """A row that is not sound; its reader adds the place."""


class Row(NamedTuple):
    """Classes of a video, each once, and their scores: as many, or none where the classes are labels."""

    video_id: str
    class_ids: Sequence[int]
    scores: Sequence[float]


def parse_fields(fields: Sequence[str], text: str, *, is_scored: bool) -> Row:
    """Returns the row of a CSV line; RowError where it is not sound.

    Args:
        text: The line, for messages.
        is_scored: Whether it holds (class, score) pairs, or class ids alone, which are returned ascending, each once.
    """
    form = "VIDEO_ID,CLASS SCORE CLASS SCORE ..." if is_scored else "VIDEO_ID,CLASS CLASS ..."
    if len(fields) != 2 or not fields[0]:
        raise RowError(f"expected {form}, found {text[:60]!r}")
    video_id, pairs = fields
    words = pairs.split()
    if not is_scored:
        class_ids = _numbers(pairs, words, int, "class id", "an integer")
        check_pairs(class_ids, ())
        # A label that is listed twice is one label.
        return Row(video_id, sorted(set(class_ids)), ())
    if len(words) % 2:
        raise RowError(f"expected {form}, found {len(words)} words behind the comma, an odd number")
    class_ids = _numbers(pairs, words[::2], int, "class id", "an integer")
    scores = _numbers(pairs, words[1::2], float, "score", "a number")
    check_pairs(class_ids, scores)
    return Row(video_id, class_ids, scores)


def _numbers(text: str, words: Sequence[str], kind: Callable[[str], Any], name: str, expected: str) -> list[Any]:
    # Python takes more for a number than other programs do: digits of every script, and 1_000.
    if text.isascii() and "_" not in text:
        try:
            return list(map(kind, words))
        except ValueError:
            pass  # which of the words it is, the loop below finds
    numbers = []
    for word in words:
        try:
            if not word.isascii() or "_" in word:
                raise ValueError
            numbers.append(kind(word))
        except ValueError:
            raise RowError(f"{name} {word[:60]!r}: expected {expected}") from None
    return numbers


def check_pairs(class_ids: Sequence[int], scores: Sequence[float]) -> None:
    """Raises RowError where a class id is out of range or there twice, or a score is not a finite number from 0 on."""
    if not class_ids:
        return
    # Nearly all rows pass here, in a few calls. The sum is finite only without NaN, which min() may pass over; finite
    # scores that overflow it take the loops below.
    if (
        min(class_ids) >= 0
        and max(class_ids) < MOST_CLASSES
        and (not scores or (sum(scores) < math.inf and min(scores) >= 0 and len(set(class_ids)) == len(class_ids)))
    ):
        return
    for class_id in class_ids:
        if not 0 <= class_id < MOST_CLASSES:
            raise RowError(f"class id {class_id} is out of range, valid are 0 to {MOST_CLASSES - 1}")
    for score in scores:
        if not 0 <= score < math.inf:
            raise RowError(f"score {score:g}: expected a number from 0 on")
    if scores and len(set(class_ids)) < len(class_ids):
        twice = next(class_id for place, class_id in enumerate(class_ids) if class_id in class_ids[:place])
        raise RowError(f"class {twice} is there twice")

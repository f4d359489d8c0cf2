"""What the classes are called."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from yt8m_ray.local_files import regular_only
from yt8m_ray.schema import FRAME_FEATURES, NUM_CLASSES_2018, VIDEO_FEATURES

PUBLISHED_PATH = Path(__file__).with_name("vocabulary.csv")

_VERTICAL_COLUMNS = ("Vertical1", "Vertical2", "Vertical3")
_COLUMNS = ("Index", "TrainVideoCount", "KnowledgeGraphId", "Name", *_VERTICAL_COLUMNS)


@dataclass(frozen=True)
class _Entry:
    """One class: empty strings and 0 where nothing is known."""

    train_video_count: int = 0
    knowledge_graph_id: str = ""
    name: str = ""
    verticals: tuple[str, ...] = ()


class Vocabulary:
    """Names of the classes 0..len - 1. Asking for a class beyond them is an IndexError.

    Attributes:
        train_video_counts: int64 [len], videos of the published training set with each label; 0 where unknown.
    """

    def __init__(self, entries: Sequence[_Entry]) -> None:
        self._entries = tuple(entries)
        counts = [entry.train_video_count for entry in self._entries]
        self.train_video_counts: npt.NDArray[np.int64] = np.array(counts, dtype=np.int64)

    @classmethod
    def load(cls, path: str | Path | None = None, *, num_classes: int = 0) -> Vocabulary:
        """Returns the table of a CSV file with the published columns, the published table itself by default.

        Args:
            num_classes: How many classes it must have at least.

        Raises:
            ValueError: a column is missing, a class id is not its row's number, a count is no number, or there are
                fewer classes.
        """
        path = PUBLISHED_PATH if path is None else Path(path)
        try:
            with open(path, encoding="utf-8-sig", newline="", opener=regular_only) as file:
                vocabulary = cls(_read_rows(file, path))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: not a CSV file in UTF-8: {error}") from None
        if len(vocabulary) < num_classes:
            raise ValueError(f"{path}: expected the names of {num_classes} classes, found {len(vocabulary)}")
        return vocabulary

    @classmethod
    def for_num_classes(cls, num_classes: int) -> Vocabulary:
        """Returns the first `num_classes` classes of the published table; of more than it has, none is known."""
        if num_classes <= NUM_CLASSES_2018:
            return cls(cls.load()._entries[:num_classes])
        # Not the table and some blanks: the 4,716 classes of 2017 have other ids, and this table lacks their names.
        return cls([_Entry()] * num_classes)

    @classmethod
    def meant_by(cls, features: Iterable[str], num_classes: int) -> Vocabulary:
        """Returns the published classes where a data set that names none can mean them, else classes without names.

        Args:
            features: Names of what its videos have. Fewer than the published 3,862 classes are the first of them only
                where these are the published ones too: the 527 classes of AudioSet are others.
        """
        if num_classes == NUM_CLASSES_2018 or set(features) <= {*FRAME_FEATURES, *VIDEO_FEATURES}:
            return cls.for_num_classes(num_classes)
        return cls([_Entry()] * num_classes)

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, class_id: int) -> str | None:
        """Returns the name of a class, None where it is unknown or empty (56 published ones are)."""
        return self._entry(class_id).name or None

    def knowledge_graph_id(self, class_id: int) -> str | None:
        """Returns the id in Google's Knowledge Graph such as `/m/02wbm`, None where unknown."""
        return self._entry(class_id).knowledge_graph_id or None

    def verticals(self, class_id: int) -> tuple[str, ...]:
        """Returns the up to three groups of topics that a class belongs to."""
        return self._entry(class_id).verticals

    def first_difference(self, other: Vocabulary) -> int | None:
        """Returns the first id that is not one class in both, None where there is none.

        Two classes are one by their ids in the Knowledge Graph, by their names where one of them lacks that. A class
        that a table knows nothing of may be any, as may those beyond the shorter table.
        """
        for class_id, (one, another) in enumerate(zip(self._entries, other._entries, strict=False)):
            known = [(one.knowledge_graph_id, another.knowledge_graph_id), (one.name, another.name)]
            decisive = next((pair for pair in known if all(pair)), None)
            if decisive is not None and decisive[0] != decisive[1]:
                return class_id
        return None

    def save(self, path: str | Path) -> None:
        """Writes the table; of the published one, the same bytes as published."""
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            for class_id, entry in enumerate(self._entries):
                verticals = entry.verticals + ("",) * (len(_VERTICAL_COLUMNS) - len(entry.verticals))
                writer.writerow((class_id, entry.train_video_count, entry.knowledge_graph_id, entry.name, *verticals))

    def _entry(self, class_id: int) -> _Entry:
        if not 0 <= class_id < len(self):  # a negative id would silently count from the end
            raise IndexError(f"class id {class_id}: the vocabulary has the classes 0..{len(self) - 1}")
        return self._entries[class_id]


def _read_rows(file: TextIO, path: Path) -> list[_Entry]:
    reader = csv.DictReader(file)
    missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"{path}: expected the columns {', '.join(_COLUMNS)}, missing {', '.join(missing)}")
    return [_parse_row(row, class_id, path) for class_id, row in enumerate(reader)]


def _parse_row(row: dict[str, str], class_id: int, path: Path) -> _Entry:
    if None in row.values():  # what csv gives for columns that a short row lacks
        raise ValueError(f"{path}: data row {class_id}: expected {len(_COLUMNS)} columns or more")
    if row["Index"] != str(class_id):
        raise ValueError(f"{path}: expected class id {class_id} in data row {class_id}, found {row['Index']!r}")
    if not re.fullmatch(r"[0-9]{1,18}", row["TrainVideoCount"]):
        raise ValueError(f"{path}: class id {class_id}: TrainVideoCount {row['TrainVideoCount'][:40]!r} is not a count")
    verticals = tuple(row[column] for column in _VERTICAL_COLUMNS if row[column])
    return _Entry(int(row["TrainVideoCount"]), row["KnowledgeGraphId"], row["Name"], verticals)

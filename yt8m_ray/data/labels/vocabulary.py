"""The names of the classes."""

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
    """Names of the classes 0..len - 1; IndexError for any other class.

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

        Raises:
            ValueError: it is malformed, or has fewer than `num_classes` classes.
        """
        path = PUBLISHED_PATH if path is None else Path(path)
        try:
            # Spreadsheets begin a file with a byte order mark.
            with open(path, encoding="utf-8-sig", newline="", opener=regular_only) as file:
                vocabulary = cls(_read_rows(file, path))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: not a CSV file in UTF-8: {error}") from None
        if len(vocabulary) < num_classes:
            raise ValueError(f"{path}: expected the names of {num_classes} classes, found {len(vocabulary)}")
        return vocabulary

    @classmethod
    def for_num_classes(cls, num_classes: int) -> Vocabulary:
        """Returns the first `num_classes` classes of the published table; classes without names if it has fewer."""
        # The 4,716 classes of 2017 have other ids: the table names none of them.
        return cls(cls.load()._entries[:num_classes] if num_classes <= NUM_CLASSES_2018 else [_Entry()] * num_classes)

    @classmethod
    def meant_by(cls, features: Iterable[str], num_classes: int) -> Vocabulary:
        """Returns the published classes if a data set with these features can mean them, else classes without names."""
        # With other features, fewer classes need not be the first of the published ones: AudioSet's 527 are not.
        if num_classes == NUM_CLASSES_2018 or set(features) <= {*FRAME_FEATURES, *VIDEO_FEATURES}:
            return cls.for_num_classes(num_classes)
        return cls([_Entry()] * num_classes)

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, class_id: int) -> str | None:
        """Returns the name of a class, None where it is unknown or empty (as 56 published names are)."""
        return self._entry(class_id).name or None

    def knowledge_graph_id(self, class_id: int) -> str | None:
        """Returns the id in Google's Knowledge Graph such as `/m/02wbm`, None where unknown."""
        return self._entry(class_id).knowledge_graph_id or None

    def verticals(self, class_id: int) -> tuple[str, ...]:
        """Returns the groups of topics of a class, three at most."""
        return self._entry(class_id).verticals

    def first_difference(self, other: Vocabulary) -> int | None:
        """Returns the first id that means different classes in two tables, None where there is none."""
        # A class that a table knows nothing of may be any, as may those beyond the shorter table.
        for class_id, (one, another) in enumerate(zip(self._entries, other._entries, strict=False)):
            pairs = ((one.knowledge_graph_id, another.knowledge_graph_id), (one.name, another.name))
            # Names decide only where an id is missing: one class may have several names.
            decisive = next(filter(all, pairs), None)
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
        # A negative id would silently count from the end.
        if not 0 <= class_id < len(self):
            raise IndexError(f"class id {class_id}: the vocabulary has the classes 0..{len(self) - 1}")
        return self._entries[class_id]


def _read_rows(file: TextIO, path: Path) -> list[_Entry]:
    reader = csv.DictReader(file)
    missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"{path}: expected the columns {', '.join(_COLUMNS)}, missing {', '.join(missing)}")
    return [_parse_row(row, class_id, path) for class_id, row in enumerate(reader)]


def _parse_row(row: dict[str, str], class_id: int, path: Path) -> _Entry:
    # csv gives None for the columns that a short row lacks.
    if None in row.values():
        raise ValueError(f"{path}: data row {class_id}: expected {len(_COLUMNS)} columns or more")
    if row["Index"] != str(class_id):
        raise ValueError(f"{path}: expected class id {class_id} in data row {class_id}, found {row['Index']!r}")
    # 18 digits fit into int64; \d would match those of other scripts.
    if not re.fullmatch(r"[0-9]{1,18}", row["TrainVideoCount"]):
        raise ValueError(f"{path}: class id {class_id}: TrainVideoCount {row['TrainVideoCount'][:40]!r} is not a count")
    verticals = tuple(row[column] for column in _VERTICAL_COLUMNS if row[column])
    return _Entry(int(row["TrainVideoCount"]), row["KnowledgeGraphId"], row["Name"], verticals)

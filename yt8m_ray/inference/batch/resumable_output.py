"""Predictions of many shards, one part a shard: what is finished survives a kill, and is not predicted again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.predictions.writer import SubmissionWriter, join_submissions
from yt8m_ray.topk import TopK

_JOB_FILE = "job.json"
_DONE_FILE = "done.jsonl"


class PredictionParts:
    """The finished parts of a prediction file, and those being written.

    Args:
        output: The file to make, `.csv`, `.csv.gz` or `.parquet`.
        model_version: What predicts.
        shards: What is predicted, in the order of the file.
        top_k: Classes a video.

    Raises:
        ConfigError: the folder holds parts of another prediction, or the name ends otherwise.
    """

    def __init__(self, output: str, *, model_version: str, shards: Sequence[str], top_k: int) -> None:
        self._output = output
        self._folder = Path(f"{output}.parts")
        self._suffix = SubmissionWriter(output).suffix.removesuffix(".gz")  # the whole is packed, not each part
        self._shards = list(shards)
        self._open: dict[int, SubmissionWriter] = {}
        self._counts: dict[int, Counter[str]] = {}
        digest = hashlib.sha256("\n".join(shards).encode()).hexdigest()
        self._begin({"model": model_version, "shards": len(shards), "sha256_of_shards": digest, "top_k": top_k})

    @property
    def done(self) -> list[int]:
        """Shards whose parts are finished."""
        return sorted(self._counts)

    @property
    def counts(self) -> Counter[str]:
        """`num_videos` and rejected records by cause, over all finished parts."""
        return sum(self._counts.values(), Counter())

    def write(self, shard: int, video_ids: Sequence[str], predictions: TopK) -> None:
        """Adds videos to a shard's part."""
        self._writer(shard).write(video_ids, predictions)

    def finish(self, shard: int, rejected: Counter[str]) -> None:
        """Closes a shard's part, which from now on is not predicted again."""
        writer = self._writer(shard)
        writer.finish()
        del self._open[shard]
        counts = Counter({"num_videos": writer.num_videos}) + rejected
        with (self._folder / _DONE_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"shard": shard, **counts}) + "\n")
        self._counts[shard] = counts

    def abandon(self) -> None:
        """Drops what is unfinished; the folder goes too where nothing is finished."""
        for writer in self._open.values():
            writer.discard()
        self._open = {}
        if not self._counts:
            shutil.rmtree(self._folder)

    def join(self) -> None:
        """Makes the file of all parts, in the order of the shards, and removes them."""
        join_submissions([self._part(shard) for shard in range(len(self._shards))], self._output)
        shutil.rmtree(self._folder)

    def _begin(self, job: dict[str, object]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / _JOB_FILE
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found != job:
                raise ConfigError(
                    f"--output: {self._folder} holds parts of another prediction ({found}); this one is {job}; remove "
                    "it, or choose another name"
                )
        else:
            aside = path.with_suffix(".tmp")
            aside.write_text(json.dumps(job) + "\n", encoding="utf-8")
            os.replace(aside, path)
        done = self._folder / _DONE_FILE
        text = done.read_text(encoding="utf-8") if done.exists() else ""
        if text and not text.endswith("\n"):  # a kill cut it short: the next line is not to be added to it
            done.write_text(text + "\n", encoding="utf-8")
        for line in text.splitlines():
            entry = _parse(line)
            if entry and Path(self._part(entry["shard"])).exists():
                shard = entry.pop("shard")
                self._counts[shard] = Counter(entry)

    def _writer(self, shard: int) -> SubmissionWriter:
        if shard not in self._open:
            self._open[shard] = SubmissionWriter(self._part(shard)).open()
        return self._open[shard]

    def _part(self, shard: int) -> str:
        return str(self._folder / f"{shard:06d}{self._suffix}")


def _parse(line: str) -> dict[str, int]:
    """Returns a line of the list of finished parts; nothing for one that a kill cut short."""
    try:
        entry: dict[str, int] = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return entry

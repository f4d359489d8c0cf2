"""YouTube-8M's published shards -> a folder, whatever interrupts it.

The layout is that of YouTube-8M's own download.py: the plan of the partition 2/frame/train is
http://data.yt8m.org/2/download_plans/frame_train.json, a JSON document {"files": {NAME: MD5, ...}}; the files are
http://us.data.yt8m.org/2/frame/train/NAME, and likewise for the mirrors eu and asia.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import filelock
import pydantic
import requests
from pydantic import Field
from tqdm import tqdm

from yt8m_ray.data.download.transfer import PART_SUFFIX, Progress, StoppedError, Transfer, TransferError, md5_of
from yt8m_ray.errors import NoShardsError
from yt8m_ray.json_document import append_json_line, parse_json, read_json_lines
from yt8m_ray.registry import Config

logger = logging.getLogger(__name__)

STATE_FILE = ".download_state.jsonl"
"""Files whose md5 was found right, with size and time: what has not changed since is not read again."""

LOCK_FILE = ".download.lock"

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MD5 = re.compile(r"[0-9a-f]{32}")
_STOP_TIMEOUT_S = 1.0


class DownloadConfig(Config):
    """Which shards to fetch, from where, and how patiently."""

    partition: str = Field(description="version/level/split, such as 2/frame/train")
    shard: str = Field(default="1,1", description="i,n: the i-th of n parts of the partition, such as 1,100")
    mirror: Literal["us", "eu", "asia"] = Field(default="us", description="us, eu or asia")
    num_connections: int = Field(default=4, ge=1, le=64, description="files that are fetched at once")
    base_url: str = Field(
        default="http://{host}",
        description="another root; {host} stands for data.yt8m.org (plans) and us.data.yt8m.org (files)",
    )
    verify: bool = Field(default=False, description="true reads the files again that are there and compares their md5")
    num_attempts: int = Field(default=5, ge=1, description="tries of a request, or of a file, that bring nothing new")
    backoff_s: float = Field(default=1.0, ge=0, description="pause after a second failed try; doubles with each")
    timeout_s: float = Field(default=60.0, gt=0, description="how long a server may be silent")

    @pydantic.field_validator("partition")
    @classmethod
    def _check_partition(cls, partition: str) -> str:
        parts = partition.split("/")
        if len(parts) != 3 or not all(map(_FILE_NAME.fullmatch, parts)):
            raise ValueError(f"expected version/level/split such as 2/frame/train, found {partition!r}")
        return partition

    @pydantic.field_validator("base_url")
    @classmethod
    def _check_base_url(cls, base_url: str) -> str:
        if not re.match(r"https?://[^/]", base_url):
            raise ValueError(f"expected http://... or https://..., found {base_url!r}")
        return base_url

    @pydantic.field_validator("shard")
    @classmethod
    def _check_shard(cls, shard: str) -> str:
        index, num_parts = parse_shard(shard)
        if not 1 <= index <= num_parts:
            raise ValueError(f"expected i,n with 1 <= i <= n, found {shard!r}")
        return shard

    @property
    def plan_url(self) -> str:
        """Where the partition's files are listed."""
        version, level, split = self.partition.split("/")
        return f"{self._root('data.yt8m.org')}/{version}/download_plans/{level}_{split}.json"

    def file_url(self, name: str) -> str:
        """Returns where a file of the partition is."""
        return f"{self._root(f'{self.mirror}.data.yt8m.org')}/{self.partition}/{name}"

    def _root(self, host: str) -> str:
        return self.base_url.replace("{host}", host).rstrip("/")


class DownloadError(OSError):
    """Files that could not be fetched; all others are there."""


@dataclass
class Report:
    """What a download did."""

    num_files: int
    num_present: int = 0
    num_fetched: int = 0
    num_bytes: int = 0
    failures: dict[str, str] = field(default_factory=dict)


def download(config: DownloadConfig, output: str | Path) -> Report:
    """Fetches what `output` lacks of the shards; the same call again continues where this one ended, however it did.

    A whole file has its own name, one that is not whole ends in `.part`. A file that cannot be fetched stops no other.

    Raises:
        NoShardsError: there is no such partition.
        DownloadError: lists the files that failed.
        TransferError: the plan cannot be fetched.
        ValueError: the plan is malformed.
        OSError: `output` cannot be written to, the disk is full, or another download works there.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(output / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise OSError(f"{output}: another download works in this folder") from None
    with lock:
        return _Download(config, output).run()


def parse_shard(shard: str) -> tuple[int, int]:
    """Returns (i, n) of "i,n"."""
    found = re.fullmatch(r"([0-9]+),([0-9]+)", shard)
    if not found:
        raise ValueError(f"expected i,n such as 1,100, found {shard!r}")
    return int(found[1]), int(found[2])


def parse_plan(document: bytes, *, url: str) -> dict[str, str]:
    """Returns the md5 of each file of a plan; its names are safe to use in a folder and in a URL."""
    try:
        plan = parse_json(document, where=url)
    except ValueError as error:
        raise ValueError(f"{error}; found {document[:40]!r}") from None
    files = plan.get("files") if isinstance(plan, dict) else None
    if not isinstance(files, dict) or not files:
        raise ValueError(f'{url}: expected {{"files": {{NAME: MD5, ...}}}}, found {document[:40]!r}')
    for name, md5 in files.items():
        if not _FILE_NAME.fullmatch(name) or name.endswith(PART_SUFFIX):
            raise ValueError(f"{url}: files: expected names of letters, digits, _, - and ., found {name!r}")
        if not isinstance(md5, str) or not _MD5.fullmatch(md5):
            raise ValueError(f"{url}: files: {name}: expected an md5, found {md5!r}")
    return files


def select(names: Iterable[str], shard: str) -> list[str]:
    """Returns the sorted names of the i-th of n parts: those whose own md5, as a number, is i - 1 modulo n."""
    index, num_parts = parse_shard(shard)
    return sorted(
        name
        for name in names
        if int(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest(), 16) % num_parts == index - 1
    )


class _Download:
    """One call of `download`."""

    def __init__(self, config: DownloadConfig, output: Path) -> None:
        self._config = config
        self._output = output
        self._plan: dict[str, str] = {}
        self._waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[tuple[str, str | OSError]] = queue.SimpleQueue()

    def run(self) -> Report:
        config, started_s = self._config, time.monotonic()
        with Transfer(
            num_connections=config.num_connections,
            num_attempts=config.num_attempts,
            backoff_s=config.backoff_s,
            timeout_s=config.timeout_s,
        ) as transfer:
            self._plan = _fetch_plan(transfer, config.plan_url)
            names = select(self._plan, config.shard)
            missing = self._without_known(names)
            report = Report(len(names), num_present=len(names) - len(missing))
            with Progress(len(missing)) as progress:
                try:
                    self._fetch_all(missing, transfer, progress, report)
                finally:
                    report.num_bytes = progress.num_received
                    _log_summary(report, self._output, time.monotonic() - started_s)
        if report.failures:
            reasons = "".join(f"\n  {reason}" for _, reason in sorted(report.failures.items()))
            raise DownloadError(f"{self._output}: {len(report.failures)} of {len(names)} files failed:{reasons}")
        return report

    def _fetch_all(self, names: Sequence[str], transfer: Transfer, progress: Progress, report: Report) -> None:
        for name in names:
            self._waiting.put(name)
        # Daemons: Ctrl-C need not wait for a silent server. What they have written by then is what a part may hold.
        threads = [
            threading.Thread(target=self._work, args=(transfer, progress), daemon=True)
            for _ in range(min(self._config.num_connections, len(names)))
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in names:
                name, outcome = self._outcomes.get()
                self._count(name, outcome, report)
                progress.finish_file()
        finally:
            transfer.stop()
            deadline_s = time.monotonic() + _STOP_TIMEOUT_S
            for thread in threads:
                thread.join(max(deadline_s - time.monotonic(), 0.0))

    def _work(self, transfer: Transfer, progress: Progress) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                name = self._waiting.get_nowait()
                outcome: str | OSError = "crashed"
                try:
                    outcome = self._provide(name, transfer, functools.partial(progress.report, name))
                except StoppedError:
                    return
                except OSError as error:
                    outcome = error
                finally:
                    self._outcomes.put((name, outcome))

    def _provide(self, name: str, transfer: Transfer, report: Callable[[int, int | None], None]) -> str:
        path, md5 = self._output / name, self._plan[name]
        if path.exists():
            found = md5_of(path)
            if found == md5:
                return "present"
            logger.warning("%s: expected md5 %s, found %s; it is replaced", path, md5, found)
        transfer.fetch(self._config.file_url(name), path, md5, report)
        return "fetched"

    def _count(self, name: str, outcome: str | OSError, report: Report) -> None:
        if isinstance(outcome, TransferError):
            report.failures[name] = str(outcome)
        elif isinstance(outcome, OSError):  # of this machine: every other file would meet it too
            raise outcome
        elif outcome == "crashed":
            raise RuntimeError(f"{name}: its thread ended with the error above")
        else:
            report.num_present += outcome == "present"
            report.num_fetched += outcome == "fetched"
            append_json_line(self._output / STATE_FILE, self._facts(name))

    def _without_known(self, names: Sequence[str]) -> list[str]:
        """Returns the names without those whose files are as they were when their md5 was right."""
        if self._config.verify:
            return list(names)
        known = {facts["name"]: facts for facts in read_json_lines(self._output / STATE_FILE)}
        return [name for name in names if name not in known or known[name] != self._facts(name)]

    def _facts(self, name: str) -> dict[str, Any]:
        facts: dict[str, Any] = {"name": name, "md5": self._plan[name]}
        with contextlib.suppress(FileNotFoundError):
            status = (self._output / name).stat()
            facts |= {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
        return facts


def _fetch_plan(transfer: Transfer, url: str) -> dict[str, str]:
    response = transfer.read(url)
    if response.status_code in (requests.codes.forbidden, requests.codes.not_found):  # public buckets say either
        status = f"{response.status_code} {response.reason}"
        raise NoShardsError(f"{url}: no such plan ({status}); partitions are named like 2/frame/train")
    if response.status_code != requests.codes.ok:
        raise TransferError(f"{url}: expected status 200, found {response.status_code} {response.reason}")
    return parse_plan(response.content, url=url)


def _log_summary(report: Report, output: Path, seconds: float) -> None:
    logger.info(
        "%s: %d files; %d fetched (%sB in %s), %d were there, %d failed, %d not reached",
        output,
        report.num_files,
        report.num_fetched,
        tqdm.format_sizeof(report.num_bytes),
        tqdm.format_interval(seconds),
        report.num_present,
        len(report.failures),
        report.num_files - report.num_fetched - report.num_present - len(report.failures),
    )

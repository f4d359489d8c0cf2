"""YouTube-8M's published shards -> a folder, whatever interrupts it."""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import requests
from tqdm import tqdm

from yt8m_ray.data.download.config import FILE_NAME, DownloadConfig, select
from yt8m_ray.data.download.progress import Progress
from yt8m_ray.data.download.transfer import PART_SUFFIX, OnBytes, StoppedError, Transfer, TransferError, md5_of
from yt8m_ray.errors import NoShardsError, YT8MError
from yt8m_ray.json_document import append_json_line, parse_json, read_json_lines
from yt8m_ray.wording import counted

logger = logging.getLogger(__name__)

# Files whose md5 was found right, with size and time: what has not changed since is not read again.
STATE_FILE = ".download_state.jsonl"
LOCK_FILE = ".download.lock"

_MD5 = re.compile(r"[0-9a-f]{32}")
_STOP_TIMEOUT_S = 1.0


class DownloadError(YT8MError, OSError):
    """Files that could not be fetched; all others have been."""


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

    The name of an incomplete file ends in `.part`. A file that cannot be fetched stops no other.

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


def parse_plan(document: bytes, *, url: str) -> dict[str, str]:
    """Returns the md5 of each file of a plan; ValueError where it is malformed."""
    try:
        plan = parse_json(document, where=url)
    except ValueError as error:
        raise ValueError(f"{error}; found {document[:40]!r}") from None
    files = plan.get("files") if isinstance(plan, dict) else None
    if not isinstance(files, dict) or not files:
        raise ValueError(f'{url}: expected {{"files": {{NAME: MD5, ...}}}}, found {document[:40]!r}')
    # Names become files of the folder and ends of URLs: none may lead elsewhere.
    for name, md5 in files.items():
        if not FILE_NAME.fullmatch(name) or name.endswith(PART_SUFFIX):
            raise ValueError(f"{url}: files: expected names of letters, digits, _, - and ., found {name!r}")
        if not isinstance(md5, str) or not _MD5.fullmatch(md5):
            raise ValueError(f"{url}: files: {name}: expected an md5, found {md5!r}")
    return files


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
        with contextlib.closing(Transfer(config)) as transfer:
            self._plan = _fetch_plan(transfer, config.plan_url)
            names = select(self._plan, config.shard)
            missing = self._without_known(names)
            report = Report(len(names), num_present=len(names) - len(missing))
            with contextlib.closing(Progress(len(missing))) as progress:
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
        # Daemons, so that Ctrl-C need not wait for a silent server: whatever they have written by then is a valid part.
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
        with contextlib.suppress(queue.Empty, StoppedError):
            while True:
                name = self._waiting.get_nowait()
                outcome: str | OSError = "crashed"
                try:
                    outcome = self._provide(name, transfer, functools.partial(progress.report, name))
                except StoppedError:
                    raise
                except OSError as error:
                    outcome = error
                finally:
                    self._outcomes.put((name, outcome))

    def _provide(self, name: str, transfer: Transfer, on_bytes: OnBytes) -> str:
        path, md5 = self._output / name, self._plan[name]
        if path.exists():
            found = md5_of(path)
            if found == md5:
                return "present"
            logger.warning("%s: expected md5 %s, found %s; it is replaced", path, md5, found)
        transfer.fetch(self._config.file_url(name), path, md5, on_bytes)
        return "fetched"

    def _count(self, name: str, outcome: str | OSError, report: Report) -> None:
        if isinstance(outcome, TransferError):
            report.failures[name] = str(outcome)
        elif isinstance(outcome, OSError):
            # A fault of this machine, which every other file would meet too.
            raise outcome
        elif outcome == "crashed":
            # The interpreter has printed the error of the thread.
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
    # Public buckets answer either for what does not exist.
    if response.status_code in (requests.codes.forbidden, requests.codes.not_found):
        status = f"{response.status_code} {response.reason}"
        raise NoShardsError(f"{url}: no such plan ({status}); partitions are named like 2/frame/train")
    if response.status_code != requests.codes.ok:
        raise TransferError(f"{url}: expected status 200, found {response.status_code} {response.reason}")
    return parse_plan(response.content, url=url)


def _log_summary(report: Report, output: Path, seconds: float) -> None:
    logger.info(
        "%s: %s; %d fetched (%sB in %s), %d were there, %d failed, %d not reached",
        output,
        counted(report.num_files, "file"),
        report.num_fetched,
        tqdm.format_sizeof(report.num_bytes),
        tqdm.format_interval(seconds),
        report.num_present,
        len(report.failures),
        report.num_files - report.num_fetched - report.num_present - len(report.failures),
    )

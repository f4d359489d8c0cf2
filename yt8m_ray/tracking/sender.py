"""Brings what a run has measured to MLflow, beside the run: training never waits for it and never fails by it.

The run's own folder is what counts: `metrics.jsonl` holds every value, and `mlflow.json` how much of it MLflow has, so
that whatever is missing is sent when MLflow answers again, at the end of the run, or at its next start.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import urllib.parse
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from yt8m_ray.errors import ConfigError
from yt8m_ray.json_document import parse_json
from yt8m_ray.local_files import read_document
from yt8m_ray.tracking.history import HISTORY_FILE, read_history
from yt8m_ray.tracking.runs import Status, Tracker, TrackingError

logger = logging.getLogger(__name__)

STATE_FILE = "mlflow.json"

_IDLE_S = 1.0
_FIRST_WAIT_S = 2.0
_LONGEST_WAIT_S = 15.0
_SERVER_WAIT_S = 10.0
_STORE_WAIT_S = 120.0  # to make an SQLite store takes seconds, and starts at the same time wait for one another
_CLOSE_WAIT_S = 30.0
_CLOSE_RETRY_S = 10.0  # a server that is started again takes five seconds
_STOP_WAIT_S = 8.0  # who stops a run, or takes its machine away, does not wait for long
_ARTIFACTS_WAIT_S = 600.0


@dataclass
class State:
    """How much of a run MLflow has.

    Attributes:
        uri: The store that this is about.
        key: A tag of the run there.
        run_id: The run there; empty until it is made.
        num_sent_bytes: Of the history.
        artifacts: [path, folder among the artifacts] that are still to be sent.
        status: How the run ended, while MLflow has not heard of it.
    """

    uri: str
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    run_id: str = ""
    num_sent_bytes: int = 0
    artifacts: list[tuple[str, str | None]] = field(default_factory=list)
    status: Status | None = None

    @classmethod
    def load(cls, run_path: Path, uri: str, run_id: str) -> State:
        """Returns the state that a run left; for another store a new one, and everything is sent there.

        Args:
            run_path: The run's folder.
            uri: The store.
            run_id: The run there, as far as is known without this file.
        """
        try:
            found = parse_json(read_document(run_path / STATE_FILE), where=STATE_FILE)
            state = cls(**{**found, "artifacts": [tuple(one) for one in found["artifacts"]]})
        except FileNotFoundError:
            return cls(uri, run_id=run_id)
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("%s: unreadable, everything is sent to MLflow again: %s", run_path / STATE_FILE, error)
            return cls(uri, run_id=run_id)
        return state if state.uri == uri else cls(uri)

    def save(self, run_path: Path) -> None:
        """Writes the state aside and renames it."""
        aside = run_path / f"{STATE_FILE}.tmp"
        aside.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        os.replace(aside, run_path / STATE_FILE)


@dataclass(frozen=True)
class RunFacts:
    """What a run is made with in MLflow: see `Tracker.start`."""

    experiment: str
    run_name: str
    params: Mapping[str, object]
    artifact_path: Path
    tags: Mapping[str, str] = field(default_factory=dict)


class Sender:
    """Sends a run's history, artifacts and end to MLflow from a thread of its own.

    Args:
        uri: Tracking server or SQLite store.
        run_path: The run's folder; nobody else sends from it.
        facts: What the run is made with.
        run_id: The run that is continued, where it is known.
    """

    def __init__(self, uri: str, run_path: Path, facts: RunFacts, *, run_id: str = "") -> None:
        self.uri = uri
        self._run_path = run_path
        self._facts = facts
        self._state = State.load(run_path, uri, run_id)
        self._state.status = None
        self._tracker: Tracker | None = None
        self._error: TrackingError | None = None
        self._refusal: ConfigError | None = None
        self._is_first = not self._state.run_id
        self._is_closing = self._is_told = False
        self._changed = threading.Condition()
        self._tried = threading.Event()
        self._is_sent = self._is_uploading = False
        self._deadline_s = 0.0
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    @property
    def run_id(self) -> str:
        """The run in MLflow; empty as long as there is none."""
        return self._state.run_id

    def start(self) -> None:
        """Starts to send; returns when MLflow has the run, or as soon as it is clear that it cannot be had now.

        Raises:
            ConfigError: MLflow has no store of that kind, or no host has the name in a new run's address.
            TrackingError: what answers a new run is no MLflow, or does not let us in.
        """
        if self._is_first:
            _check_host(self.uri)
        self._thread.start()
        wait_s = _SERVER_WAIT_S if self.uri.startswith("http") else _STORE_WAIT_S
        self._tried.wait(wait_s)
        if self._refusal is not None:
            raise self._refusal
        if self._error is not None and self._is_first and not self._error.is_temporary:
            self._stop()
            raise self._error
        if self._tracker is not None:
            logger.info("MLflow: run %s in %s", self.run_id, self.uri)
        elif self._error is None:
            self._tell(f"tracking.uri: {self.uri}: no answer within {wait_s:.0f} s")

    def add_artifacts(self, path: Path, *, artifact_path: str | None = None) -> None:
        """Lets a file or a folder be sent, which has to stay where it is."""
        with self._changed:
            self._state.artifacts.append((str(path), artifact_path))
            self._save()
            self._changed.notify()

    def close(self, status: Status) -> None:
        """Says how the run ended; waits while there is something to send that MLflow takes, but not for long."""
        with self._changed:
            self._state.status = status
            self._deadline_s = time.monotonic() + (0.0 if status == "KILLED" else _CLOSE_RETRY_S)
            self._save()
        self._stop()
        self._thread.join(_STOP_WAIT_S if status == "KILLED" else _CLOSE_WAIT_S)
        if self._is_uploading and status != "KILLED":
            self._thread.join(_ARTIFACTS_WAIT_S)
        if not self._is_sent:
            logger.warning(
                "MLflow at %s does not have all of this run: %s. The rest is kept in %s, and is sent when the same "
                "command is started again",
                self.uri,
                self._error or "it does not answer",
                self._run_path / HISTORY_FILE,
            )

    def _stop(self) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.notify()

    def _work(self) -> None:
        wait_s = _FIRST_WAIT_S
        while True:
            is_last = self._is_closing  # what came before it is sent now, or kept
            try:
                self._send()
            except ConfigError as error:
                self._refusal = error
                self._tried.set()
                return
            except TrackingError as error:
                self._error = error
                if self._tried.is_set() or not self._is_first or error.is_temporary:
                    self._tell(str(error))
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            else:
                if self._is_told:
                    logger.info("MLflow at %s answers again: run %s", self.uri, self.run_id)
                self._error, self._is_told = None, False
                wait_s = _IDLE_S
            self._tried.set()
            if is_last and (self._is_sent or time.monotonic() >= self._deadline_s):
                return
            if is_last:
                time.sleep(_IDLE_S)
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing, timeout=wait_s)

    def _tell(self, reason: str) -> None:
        """Warns once for each time that MLflow is away."""
        if not self._is_told:
            logger.warning(
                "MLflow does not answer, the run goes on without it: %s. What it logs is kept in %s, and is sent when "
                "MLflow answers",
                reason,
                self._run_path / HISTORY_FILE,
            )
        self._is_told = True

    def _send(self) -> None:
        """Sends all there is; a TrackingError leaves the rest for the next time."""
        state = self._state
        tracker = self._tracker = self._tracker or self._connect()
        while True:
            entries, end = read_history(self._run_path, state.num_sent_bytes)
            if not entries:
                break
            tracker.log_history([(entry.time_ms, entry.step, entry.metrics) for entry in entries])
            state.num_sent_bytes = end
            self._save()
        while state.artifacts:
            path, artifact_path = state.artifacts[0]
            if Path(path).exists():  # a later start may have removed what an earlier one wanted to send
                self._is_uploading = True
                try:
                    tracker.log_artifacts(path, artifact_path=artifact_path)
                finally:
                    self._is_uploading = False
            with self._changed:
                state.artifacts.remove((path, artifact_path))
            self._save()
        if state.status is not None:
            tracker.finish(state.status)
            with self._changed:
                state.status = None
            self._save()
            self._is_sent = True

    def _connect(self) -> Tracker:
        state, facts = self._state, self._facts
        tracker = Tracker.resume(self.uri, state.run_id) if state.run_id else None
        if tracker is None:
            if state.run_id:  # the store lost it: a new one gets everything
                state.key, state.num_sent_bytes = uuid.uuid4().hex, 0
            tracker = Tracker.start(self.uri, key=state.key, **vars(facts))
            state.run_id = tracker.run_id
        self._save()
        return tracker

    def _save(self) -> None:
        try:
            with self._changed:
                self._state.save(self._run_path)
        except OSError as error:  # a full disk: at worst something is sent twice, which changes nothing
            logger.debug("%s: %s", self._run_path / STATE_FILE, error)


def send_the_rest(uri: str, run_path: Path, facts: RunFacts, *, run_id: str = "") -> str:
    """Sends what an ended run still has for MLflow, and returns the run's id there."""
    state = State.load(run_path, uri, run_id)
    if state.status is None and not state.artifacts:
        return state.run_id
    sender = Sender(uri, run_path, facts, run_id=run_id)
    sender.start()
    sender.close(state.status or "FINISHED")
    return sender.run_id


def _check_host(uri: str) -> None:
    """Refuses an address whose host no one knows; a server that is down is another thing, and may come up."""
    host = urllib.parse.urlsplit(uri).hostname if uri.startswith("http") else None
    if host is None:
        return
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise ConfigError(f"tracking.uri: {uri}: no such host: {error}") from None

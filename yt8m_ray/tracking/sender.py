"""Sends what a run has measured to MLflow, beside the run: training never waits for it and never fails by it.

`metrics.jsonl` of the run's folder has every value, and `mlflow.json` how much of it MLflow has: the rest is sent when
MLflow answers again, at the end of the run, or at its next start.
"""

from __future__ import annotations

import enum
import json
import logging
import socket
import threading
import time
import urllib.parse
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from yt8m_ray.errors import ConfigError
from yt8m_ray.json_document import parse_json
from yt8m_ray.local_files import read_document, replace_file
from yt8m_ray.tracking.datasets import ShardSet
from yt8m_ray.tracking.history import HISTORY_FILE, read_history
from yt8m_ray.tracking.outcome import NOTE_TAG, Outcome, log_checkpoint_model, log_outcome
from yt8m_ray.tracking.runs import Status, Tracker, TrackingError

logger = logging.getLogger(__name__)

STATE_FILE = "mlflow.json"


@dataclass(frozen=True)
class RetryLimits:
    """How long a sender waits, in seconds."""

    idle_s: float = 1.0  # between two looks at the history; doubles after each failure
    longest_s: float = 15.0  # between two tries
    server_s: float = 10.0  # for the first answer of a server
    # For an SQLite store: to make one takes seconds, and starts at the same time wait for one another.
    store_s: float = 120.0
    close_s: float = 30.0  # for the end of a run that is over to arrive
    close_retry_s: float = 10.0  # for that to be tried again: a server that restarts takes five seconds
    # For the end of a run that was stopped: who stops it, or takes its machine away, does not wait for long.
    stop_s: float = 8.0
    artifacts_s: float = 600.0  # for artifacts that are on their way when the run ends


class _Connection(enum.Enum):
    """What the sender knows of MLflow."""

    UNTRIED = enum.auto()
    ANSWERS = enum.auto()
    UPLOADING = enum.auto()  # it answers, and takes its time for a large file
    AWAY = enum.auto()  # a warning was logged
    REFUSED = enum.auto()  # nothing is sent any more
    ENDED = enum.auto()  # it has all of the run, and how it ended


@dataclass
class State:
    """How much of a run the MLflow at `uri` has."""

    uri: str
    key: str = field(default_factory=lambda: uuid.uuid4().hex)  # a tag of the run there
    run_id: str = ""  # empty until the run is made
    num_sent_bytes: int = 0  # of the history
    artifacts: list[tuple[str, str | None]] = field(default_factory=list)  # (path, folder there), still to be sent
    outcome: Outcome | None = None  # what the run came to, until MLflow has it
    model_id: str = ""  # of the outcome, as soon as MLflow has it
    note: str = ""  # the description that MLflow was sent last
    status: Status | None = None  # how the run ended, until MLflow has it

    @classmethod
    def load(cls, run_path: Path, uri: str, run_id: str) -> State:
        """Returns the state that a run left; for another store a new one, and everything is sent there.

        `run_id` is the run there, as far as is known without this file.
        """
        try:
            found = parse_json(read_document(run_path / STATE_FILE), where=STATE_FILE)
            outcome = None if found.get("outcome") is None else Outcome(**found["outcome"])
            state = cls(**{**found, "artifacts": [tuple(one) for one in found["artifacts"]], "outcome": outcome})
        except FileNotFoundError:
            return cls(uri, run_id=run_id)
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("%s: unreadable, everything is sent to MLflow again: %s", run_path / STATE_FILE, error)
            return cls(uri, run_id=run_id)
        return state if state.uri == uri else cls(uri)

    def save(self, run_path: Path) -> None:
        """Writes the state aside and renames it."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        replace_file(run_path / STATE_FILE, lambda aside: aside.write_text(text, encoding="utf-8"))


@dataclass(frozen=True)
class RunFacts:
    """What a run is made with in MLflow: see `Tracker.start`."""

    experiment: str
    run_name: str
    params: Mapping[str, object]
    artifact_path: Path
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: Sequence[ShardSet] = ()


class Sender:
    """Sends a run's history, artifacts and end to MLflow from a thread of its own.

    No other process may send from `run_path`, the run's folder; `run_id` continues a run of MLflow.
    """

    def __init__(
        self, uri: str, run_path: Path, facts: RunFacts, *, run_id: str = "", limits: RetryLimits = RetryLimits()
    ) -> None:
        self.uri = uri
        self.facts = facts
        self._run_path = run_path
        self._limits = limits
        self._state = State.load(run_path, uri, run_id)
        self._is_new = not self._state.run_id
        self._tracker: Tracker | None = None
        self._error: TrackingError | ConfigError | None = None
        self._connection = _Connection.UNTRIED
        self._deadline: float | None = None  # until then it is tried to send the end of the run; None before the end
        # Not MLflow's own queue (`log_metrics(synchronous=False)`): that is in memory alone, and drops a batch whose
        # retries are over, and with it what an outage was to keep (MLflow 3.17).
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    @property
    def run_id(self) -> str:
        """The run in MLflow; empty as long as there is none."""
        return self._state.run_id

    def start(self) -> None:
        """Starts to send; returns when MLflow has the run, or when it does not answer now.

        Raises:
            ConfigError: MLflow has no store of that kind, or no host has the name in a new run's address.
            TrackingError: what answers a new run is no MLflow, or does not let us in.
        """
        self._state.status = None
        if self._is_new:
            _check_host(self.uri)
        self._thread.start()
        wait_s = self._limits.server_s if self.uri.startswith("http") else self._limits.store_s
        with self._changed:
            self._changed.wait_for(lambda: self._connection is not _Connection.UNTRIED, wait_s)
            if self._connection is _Connection.REFUSED and self._error is not None:
                raise self._error
            if self._tracker is not None:
                logger.info("MLflow: run %s in %s", self.run_id, self.uri)
            elif self._error is None:
                self._set_away(f"tracking.uri: {self.uri}: no answer within {wait_s:.0f} s")

    def send_the_rest(self) -> None:
        """Sends what an ended run still has for MLflow, and how it ended; instead of `start` and `close`."""
        state = self._state
        status = state.status
        if status is not None or state.artifacts or state.outcome is not None:
            self.start()
            self.close(status or "FINISHED")

    def add_artifacts(self, path: Path, *, artifact_path: str | None = None) -> None:
        """Sends a file or a folder, which has to stay where it is."""
        with self._changed:
            self._state.artifacts.append((str(path), artifact_path))
            self._save()
            self._changed.notify_all()

    def set_outcome(self, outcome: Outcome) -> None:
        """Sends what the run came to, after all else that it has measured."""
        with self._changed:
            self._state.outcome, self._state.model_id = outcome, ""
            self._save()
            self._changed.notify_all()

    def close(self, status: Status) -> None:
        """Sends how the run ended; waits while there is something to send that MLflow takes, but not for long."""
        is_stopped, limits = status == "KILLED", self._limits
        with self._changed:
            self._state.status = status
            self._deadline = time.monotonic() + (0.0 if is_stopped else limits.close_retry_s)
            self._save()
            self._changed.notify_all()
        self._thread.join(limits.stop_s if is_stopped else limits.close_s)
        if self._connection is _Connection.UPLOADING and not is_stopped:
            self._thread.join(limits.artifacts_s)
        if self._connection is not _Connection.ENDED:
            logger.warning(
                "MLflow at %s does not have all of this run: %s. The rest is kept in %s, and is sent when the same "
                "command is started again",
                self.uri,
                self._error or "it does not answer",
                self._run_path / HISTORY_FILE,
            )

    def _work(self) -> None:
        wait_s = self._limits.idle_s
        while True:
            deadline = self._deadline  # as it is before the try: what was added before it is sent now, or kept
            try:
                self._send()
            except (ConfigError, TrackingError) as error:
                self._note(error)
                if self._connection is _Connection.REFUSED:
                    return
                wait_s = min(2 * wait_s, self._limits.longest_s)
            else:
                self._note(None)
                wait_s = self._limits.idle_s
            if deadline is not None:
                if self._connection is _Connection.ENDED or time.monotonic() >= deadline:
                    return
                time.sleep(self._limits.idle_s)
            with self._changed:
                self._changed.wait_for(lambda: self._deadline is not None, timeout=wait_s)

    def _note(self, error: TrackingError | ConfigError | None) -> None:
        """Notes how a try ended; a warning is logged once for each time that MLflow is away."""
        with self._changed:
            before, self._error = self._connection, error
            if error is None:
                if before is _Connection.AWAY:
                    logger.info("MLflow at %s answers again: run %s", self.uri, self.run_id)
                is_over = self._deadline is not None and self._state.status is None
                self._connection = _Connection.ENDED if is_over else _Connection.ANSWERS
            elif isinstance(error, ConfigError) or (
                # `start` still waits and raises it; a run that trains already goes on.
                before is _Connection.UNTRIED and self._is_new and not error.is_temporary
            ):
                self._connection = _Connection.REFUSED
            else:
                self._set_away(str(error))
            self._changed.notify_all()

    def _set_away(self, reason: str) -> None:
        if self._connection is not _Connection.AWAY:
            logger.warning(
                "MLflow does not answer, the run goes on without it: %s. What it logs is kept in %s, and is sent when "
                "MLflow answers",
                reason,
                self._run_path / HISTORY_FILE,
            )
        self._connection = _Connection.AWAY

    def _send(self) -> None:
        state = self._state
        # Each part is saved as sent after MLflow took it: what is sent twice changes nothing, and nothing is lost.
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
                before, self._connection = self._connection, _Connection.UPLOADING
                try:
                    tracker.log_artifacts(path, artifact_path=artifact_path)
                finally:
                    self._connection = before
            with self._changed:
                state.artifacts.remove((path, artifact_path))
            self._save()
        if state.outcome is not None:
            self._send_outcome(tracker, state.outcome)
        if state.status is not None:
            tracker.finish(state.status)
            with self._changed:
                state.status = None
            self._save()

    def _send_outcome(self, tracker: Tracker, outcome: Outcome) -> None:
        state = self._state
        if outcome.checkpoint and not state.model_id:
            try:
                state.model_id = log_checkpoint_model(tracker, outcome)
            except TrackingError as error:
                if error.is_temporary:
                    raise
                logger.warning("MLflow at %s takes no model: %s", self.uri, error)  # a server of MLflow 2
            self._save()
        log_outcome(tracker, outcome, model_id=state.model_id, note_before=state.note)
        with self._changed:
            state.outcome, state.note = None, outcome.note
        self._save()

    def _connect(self) -> Tracker:
        state, facts = self._state, self.facts
        tracker = Tracker.resume(self.uri, state.run_id) if state.run_id else None
        if tracker is None:
            if state.run_id:  # the store lost it: a new one gets everything
                state.key, state.num_sent_bytes, state.model_id = uuid.uuid4().hex, 0, ""
            tracker = Tracker.start(self.uri, key=state.key, **vars(facts))
            state.run_id, state.note = tracker.run_id, facts.tags.get(NOTE_TAG, "")
        self._save()
        return tracker

    def _save(self) -> None:
        try:
            with self._changed:
                self._state.save(self._run_path)
        except OSError as error:  # a full disk: at worst something is sent twice, which changes nothing
            logger.debug("%s: %s", self._run_path / STATE_FILE, error)


def _check_host(uri: str) -> None:
    """Refuses an address whose host has no name service entry; a server that is down may come up."""
    host = urllib.parse.urlsplit(uri).hostname if uri.startswith("http") else None
    if host is None:
        return
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise ConfigError(f"tracking.uri: {uri}: no such host: {error}") from None

"""A tracking server that keeps what it is told in memory, and fails on command."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import urllib.parse
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.support.faulty_server import FaultyHandler

Mood = Literal["well", "503", "hangs", "closes", "forbids", "no_mlflow"]


@dataclass
class TrackingServer:
    """What a client sees of MLflow: experiments, runs and metrics; artifacts go to a folder.

    Attributes:
        folder: Where clients put artifacts.
        mood: How it answers from now on. `hangs` does not answer before the mood changes.
        runs: By id.
        models: By id, as they were asked for.
        num_requests: How often it was asked anything.
    """

    folder: Path
    mood: Mood = "well"
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    num_requests: int = 0
    port: int = 0
    well_again: threading.Event = field(default_factory=threading.Event)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def metrics(self, run_id: str) -> set[tuple[str, int, float]]:
        return {(name, step, value) for name, _, step, value in self.runs[run_id]["metrics"]}

    def answer(self, path: str, query: dict[str, Any]) -> dict[str, Any]:
        match path.rsplit("2.0/mlflow/", 1)[-1]:
            case "experiments/get-by-name":
                return {"experiment": {"experiment_id": "1", "name": "e", "artifact_location": self.folder.as_uri()}}
            case "experiments/set-experiment-tag":
                return {}
            case "runs/search":
                runs = [run for run in self.runs.values() if any(t["value"] in query["filter"] for t in run["tags"])]
                return {"runs": [self._describe(run) for run in runs]}
            case "runs/create":
                run_id = uuid.uuid4().hex  # MLflow's client remembers where a run has its artifacts
                run = {"id": run_id, "status": "RUNNING", "metrics": set(), "params": {}, "tags": query.get("tags", [])}
                self.runs[run_id] = run
                return {"run": self._describe(run)}
            case "runs/get":
                return {"run": self._describe(self.runs[query["run_id"]])}
            case "runs/update":
                run = self.runs[query["run_id"]]
                run["status"] = query.get("status", run["status"])
                return {"run_info": self._describe(run)["info"]}
            case "runs/log-batch":
                run = self.runs[query["run_id"]]
                run["metrics"] |= {(m["key"], m["timestamp"], m["step"], m["value"]) for m in query.get("metrics", [])}
                run["params"] |= {param["key"]: param["value"] for param in query.get("params", [])}
                changed = {tag["key"] for tag in query.get("tags", [])}
                run["tags"] = [tag for tag in run["tags"] if tag["key"] not in changed] + query.get("tags", [])
                return {}
            case "logged-models":
                self.models[model_id := f"m-{len(self.models)}"] = query
                return self._describe_model(model_id)
            case "runs/outputs":
                return {}
            case model if model.startswith("logged-models/"):
                return self._describe_model(model.removeprefix("logged-models/"))
            case other:
                raise LookupError(other)

    def _describe_model(self, model_id: str) -> dict[str, Any]:
        info = {"model_id": model_id, "experiment_id": "1", "name": self.models[model_id]["name"]}
        return {"model": {"info": {**info, "status": "LOGGED_MODEL_READY"}}}

    def _describe(self, run: dict[str, Any]) -> dict[str, Any]:
        info = {"run_id": run["id"], "run_uuid": run["id"], "experiment_id": "1", "status": run["status"]}
        location = (self.folder / run["id"]).as_uri()
        return {"info": {**info, "artifact_uri": location, "lifecycle_stage": "active"}, "data": {"tags": run["tags"]}}


@contextlib.contextmanager
def tracking_server(folder: Path, *, port: int = 0) -> Iterator[TrackingServer]:
    """Starts a server for the `with` block."""
    state = TrackingServer(folder)

    class Handler(FaultyHandler):
        def do_GET(self) -> None:  # noqa: N802
            url = urllib.parse.urlsplit(self.path)
            self.reply(url.path, dict(urllib.parse.parse_qsl(url.query)))

        def do_POST(self) -> None:  # noqa: N802
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.reply(self.path, json.loads(body or b"{}"))

        def reply(self, path: str, query: dict[str, Any]) -> None:
            state.num_requests += 1
            if state.mood == "hangs":
                state.well_again.wait()
            match state.mood:
                case "closes":
                    self.reset()
                case "503":
                    self.send(503, b"out of order")
                case "forbids":
                    self.send(403, b"Invalid Host header")
                case "no_mlflow":
                    self.send(200, b"<html>another program</html>")
                case _ if query.get("run_id", query.get("run_uuid")) not in {None, *state.runs}:
                    self.send(404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}')
                case _:
                    self.send(200, json.dumps(state.answer(path, query)).encode())

        do_PATCH = do_POST  # noqa: N815

        def send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        state.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield state
        finally:
            state.well_again.set()
            server.shutdown()
            thread.join()

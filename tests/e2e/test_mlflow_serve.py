"""`mlflow models serve`: MLflow's own server answers with a registered bundle what the predictor answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e.conftest import BIN, RunVerb, free_port
from tests.e2e.processes import Command
from tests.support.tiny import write_bundle_of
from yt8m_ray.inference.bundle.golden_answers import make_inputs
from yt8m_ray.inference.mlflow_model.pyfunc import input_example
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.tracking.runs import default_uri


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ping", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.soak
def test_a_registered_bundle_answers_over_mlflows_own_http(run_verb: RunVerb, tmp_path: Path) -> None:
    bundle, uri = write_bundle_of(tmp_path / "bundle"), default_uri(tmp_path)
    registered = run_verb("register", str(bundle), "--name", "videos", "--uri", uri)
    assert (registered.code, registered.stdout) == (0, "models:/videos@champion\n"), registered.stderr
    again = run_verb("register", str(bundle), "--name", "videos", "--alias", "next")  # the store beside it
    assert (again.code, again.result) == (0, "models:/videos@next"), again.stderr
    assert "registered as version 1 of videos, alias next" in again.stderr

    port, predictor = free_port(), Predictor.from_path(bundle)
    table, _ = input_example(predictor.spec)
    serve = ["models", "serve", "-m", registered.result, "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    # MLflow finds its server by name, as in an activated environment.
    environment = {"MLFLOW_TRACKING_URI": uri, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    with Command(str(BIN / "mlflow"), *serve, folder=tmp_path, environment=environment) as server:
        server.wait_until(lambda: answers(port))
        body: dict[str, Any] = {"dataframe_records": table.to_dict(orient="records"), "params": {"top_k": 7}}
        answer = httpx.post(f"http://127.0.0.1:{port}/invocations", json=body, timeout=60)

        body["dataframe_records"][0]["rgb"] = "AAAA"
        refused = httpx.post(f"http://127.0.0.1:{port}/invocations", json=body, timeout=60)

    assert refused.status_code == 400
    assert "row 0.rgb: expected a multiple of 8 bytes (8 a frame), found 3" in refused.json()["message"]
    assert "Traceback" not in refused.text
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["predictions"]
    best = predictor.predict(make_inputs(predictor.spec, 1), 7)
    assert row["video_id"] == table["video_id"][0]
    assert row["class_ids"] == best.class_ids[0].tolist()
    assert row["names"] == [predictor.vocabulary.name(class_id) for class_id in row["class_ids"]]
    assert np.array(row["scores"]) == pytest.approx(best.scores[0].numpy(), abs=1e-6)

"""The service as its clients see it: a copy of serve/config.yaml, a port, and the same video asked in both ways."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.processes import ROOT
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.format.tfrecord import read_payloads
from yt8m_ray.data.pipeline.shard_reader import read_rows
from yt8m_ray.data.storage.filesystem import open_stream
from yt8m_ray.schema import FRAME_FEATURES


def write_config(model: Path, path: Path, port: int) -> Path:
    """Writes serve/config.yaml with another port and model and returns `path`."""
    tree: dict[str, Any] = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text(encoding="utf-8"))
    tree["http_options"]["port"] = port
    tree["applications"][0]["args"]["model"] = str(model)
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def is_healthy(port: int) -> bool:
    try:
        response = httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5)
    except httpx.TransportError:
        return False
    return response.status_code == 200 and response.json()["status"] == "ok"


def wait_until_healthy(port: int, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_healthy(port):
        assert time.monotonic() < deadline, "the service does not answer"
        time.sleep(0.2)


def ask(port: int, shard: str, top_k: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the answers to the first video of a frame-level shard, sent as JSON and as its record."""
    _, video = next(read_rows(shard, FeatureSpec(FRAME_FEATURES, num_classes=3862)))
    rgb, audio = video.frames[:, : FRAME_FEATURES["rgb"]], video.frames[:, FRAME_FEATURES["rgb"] :]
    features = {name: base64.b64encode(part.tobytes()).decode() for name, part in (("rgb", rgb), ("audio", audio))}
    with open_stream(shard) as stream:
        record = bytes(next(iter(read_payloads(stream, path=shard)))[2])
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        answers = (
            client.post("/v1/predict", json={"videos": [{"video_id": video.video_id, **features}], "top_k": top_k}),
            client.post(
                f"/v1/predict?top_k={top_k}", content=record, headers={"content-type": "application/octet-stream"}
            ),
        )
    for answer in answers:
        if answer.status_code != 200:
            pytest.fail(answer.text)
    by_json, by_record = (answer.json() for answer in answers)
    assert by_json.pop("request_id") != by_record.pop("request_id")
    return by_json, by_record

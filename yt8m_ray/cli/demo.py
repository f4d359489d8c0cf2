"""yt8m demo [--output DIR]: all steps once, on synthetic frame-level shards and this machine alone.

Runs the other verbs on one local Ray: synthesize, train (two workers), evaluate, export, serve, one request. Exits 1
unless clustering frames beats averaging them by as much as the planted data allows.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from yt8m_ray.artifacts.folder_manifest import MODEL_FILE
from yt8m_ray.cli.command import print_result, ray_cluster
from yt8m_ray.cli.main import call
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.data.pipeline.shard_reader import read_rows
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.bundle.document import read_document
from yt8m_ray.schema import FRAME_FEATURES
from yt8m_ray.tracking.runs import default_uri

logger = logging.getLogger(__name__)

NUM_CLASSES = 48
MIN_LEAD = 0.1  # of NetVLAD's GAP over that of the logistic model of averaged frames
MIN_SHARE_OF_IDEAL = 0.6  # of NetVLAD's GAP in the ideal scorer's
START_TIMEOUT_S = 90.0
MARKER_FILE = ".yt8m_ray_demo"  # in a folder that the next demo may replace


@dataclass
class Demo:
    """One run of the demo in a folder, with the seconds of each step."""

    output: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, step: str, verb: str, *arguments: str) -> str:
        """Runs a verb and returns the last line of its stdout."""
        command = ["yt8m", verb, *arguments]
        logger.info("\n[%s] %s", step, shlex.join(command))
        started = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()) as stdout:
            call([verb, *arguments])
        self.seconds[step] = time.monotonic() - started
        return stdout.getvalue().strip().splitlines()[-1]

    def synthesize(self, split: str, num_shards: int) -> dict[str, float]:
        """Writes a split and returns its dataset.json."""
        folder = self.output / "shards" / split
        flags = f"--kind frame --split {split} --num-shards {num_shards} --videos-per-shard 250 --seed 0"
        sizes = ("--num-classes", str(NUM_CLASSES))
        self.run(f"synthesize {split}", "synthesize", "--output", str(folder), *flags.split(), *sizes)
        document: dict[str, float] = json.loads((folder / "dataset.json").read_text())
        return document

    def train(self, name: str) -> str:
        """Trains a demo config with two workers and returns its best checkpoint."""
        return self.run(
            f"train {name}",
            "train",
            f"demo_{name}",
            f"output={self.output / 'runs'}",
            f"data.train={self.output / 'shards/train/*.tfrecord'}",
            f"data.validation={self.output / 'shards/validate/*.tfrecord'}",
            "scaling.num_workers=2",
        )

    def export(self, checkpoints: Sequence[str]) -> Path:
        """Exports checkpoints as one quantized ensemble and returns the bundle's folder."""
        members = [f"members.{number}.checkpoint={path}" for number, path in enumerate(checkpoints)]
        output = f"output={self.output / 'bundle'}"
        return Path(self.run("export", "export", "demo", *members, output))

    def evaluate(self, name: str, checkpoint: str) -> dict[str, float]:
        """Returns the metrics of a checkpoint over the whole validation split."""
        shards = self.output / "shards/validate/*.tfrecord"
        line = self.run(f"evaluate {name}", "evaluate", checkpoint, f"data.test={shards}")
        metrics: dict[str, float] = json.loads(line)
        return metrics


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default="demo_output", help="a folder of the demo's own, replaced if it exists")


def run(options: argparse.Namespace) -> None:
    demo = Demo(Path(options.output).absolute())
    _clear(demo.output)
    with ray_cluster():
        demo.synthesize("train", num_shards=6)
        ideal = demo.synthesize("validate", num_shards=2)["ideal_scorer_gap"]
        checkpoints = {name: demo.train(name) for name in ("netvlad", "moe", "logistic")}
        gaps = {name: demo.evaluate(name, path)["gap"] for name, path in checkpoints.items()}
        bundle = demo.export([checkpoints["netvlad"], checkpoints["moe"]])
        gaps["ensemble"] = demo.evaluate("ensemble", str(bundle))["gap"]
        started = time.monotonic()
        with served(bundle, demo.output) as url:
            answer = predict_one(url, demo.output)
        demo.seconds["serve and predict"] = time.monotonic() - started
    print_answer(answer)
    print_tables(demo, gaps, checkpoints, bundle, ideal)
    check(gaps, ideal)
    print_result(bundle)


@contextlib.contextmanager
def served(bundle: Path, output: Path) -> Iterator[str]:
    """Runs `serve run` on this process's cluster and yields the service's URL; stops it at the end."""
    # Late: `ray_cluster` sets variables that Ray reads when it is imported.
    import ray

    # The system chooses a free port.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = Path("serve/config.yaml").read_text(encoding="utf-8")
    config = re.sub(r"(?m)^( +model:) .*$", rf"\1 {json.dumps(str(bundle))}", config)
    path, log_path = output / "serve.yaml", output / "serve.log"
    path.write_text(re.sub(r"(?m)^( +port:) .*$", rf"\1 {port}", config), encoding="utf-8")
    command = ["serve", "run", str(path)]
    logger.info("\n[serve and predict] %s", shlex.join(command))
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with log_path.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / command[0]), *command[1:]],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches it through this process alone.
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_healthy(url, process, log_path)
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            requests.get(f"{url}/healthz", timeout=2).raise_for_status()
            return
        time.sleep(0.5)
    raise RuntimeError(f"the service did not start; the end of {log_path}:\n{log_path.read_text()[-2000:]}")


def predict_one(url: str, output: Path) -> dict[str, Any]:
    """Sends the first validation video as JSON and returns the answer, with the video's labels."""
    spec = FeatureSpec(FRAME_FEATURES, num_classes=NUM_CLASSES)
    _, video = next(read_rows(str(min((output / "shards/validate").glob("*.tfrecord"))), spec))
    split = FRAME_FEATURES["rgb"]
    rgb, audio = video.frames[:, :split], video.frames[:, split:]
    features = {"rgb": base64.b64encode(rgb.tobytes()).decode(), "audio": base64.b64encode(audio.tobytes()).decode()}
    body = {"videos": [{"video_id": video.video_id, **features}], "top_k": 20}
    response = requests.post(f"{url}/v1/predict", json=body, timeout=60)
    response.raise_for_status()
    return {**response.json(), "true_labels": [] if video.labels is None else video.labels.tolist()}


def print_answer(answer: dict[str, Any]) -> None:
    (prediction,) = answer["predictions"]
    print(f"\nTop {len(prediction['labels'])} of video {prediction['video_id']}, by bundle {answer['model_version']}")
    for label in prediction["labels"]:
        is_true = "  <- label" if label["class_id"] in answer["true_labels"] else ""
        print(f"  {label['score']:.4f}  {label['class_id']:4d}  {label['name'] or '-'}{is_true}")


def print_tables(demo: Demo, gaps: dict[str, float], checkpoints: dict[str, str], bundle: Path, ideal: float) -> None:
    quality = read_document(bundle).quality
    rows = [(name, gaps[name], Path(path, MODEL_FILE).stat().st_size) for name, path in checkpoints.items()]
    stored = sum(path.stat().st_size for path in bundle.rglob(MODEL_FILE))
    rows.append(("ensemble, float32", quality.gap_before, sum(size for name, _, size in rows if name != "logistic")))
    rows.append(("ensemble, int8", gaps["ensemble"], stored))
    print(f"\n{'model':24}{'validation GAP':>16}{'of the ideal':>14}{'MB':>8}")
    for name, gap, size in rows:
        print(f"{name:24}{gap:16.4f}{gap / ideal:14.1%}{size / 1e6:8.2f}")
    print(f"{'the ideal scorer':24}{ideal:16.4f}\n")
    for step, seconds in demo.seconds.items():
        print(f"{step:24}{seconds:8.1f} s")
    print(f"{'together':24}{sum(demo.seconds.values()):8.1f} s\n")
    print(f"MLflow:  mlflow ui --backend-store-uri {default_uri(demo.output / 'runs')}")
    print('Service: eval "$(python -m yt8m_ray.local_cluster)"')
    print(f"         YT8M_MODEL={bundle} serve run serve/config.yaml\n")


def check(gaps: dict[str, float], ideal: float) -> None:
    """Raises RuntimeError unless NetVLAD is as good as the planted data allows."""
    if gaps["netvlad"] < gaps["logistic"] + MIN_LEAD or gaps["netvlad"] < MIN_SHARE_OF_IDEAL * ideal:
        raise RuntimeError(
            f"NetVLAD's GAP is {gaps['netvlad']:.4f}; expected at least {MIN_LEAD} more than the logistic model's "
            f"{gaps['logistic']:.4f}, and {MIN_SHARE_OF_IDEAL} of the ideal scorer's {ideal:.4f}"
        )


def _clear(output: Path) -> None:
    """Empties the folder of an earlier demo; raises ConfigError for another folder with files."""
    if output.exists() and any(output.iterdir()) and not (output / MARKER_FILE).is_file():
        raise ConfigError(f"--output: {output} holds something else than an earlier demo; choose another folder")
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    (output / MARKER_FILE).touch()

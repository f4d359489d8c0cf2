"""yt8m demo [--output DIR]: the whole way once, on this machine alone.

Trains a mixture of experts on the real videos that come along; then, on synthetic frames, NetVLAD and a mixture of
experts, and makes one quantized ensemble of both; then serves the first model and asks it about a real video. All of it
are the verbs that you would type. Exits 1 unless clustering frames beats averaging them by as much as the planted data
allows, and the ensemble is no worse than its best member. The last line of stdout is the ensemble.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import logging
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yt8m_ray.cli.command import print_result, ray_cluster
from yt8m_ray.cli.main import call
from yt8m_ray.errors import ConfigError

logger = logging.getLogger(__name__)

NUM_CLASSES = 48
NUM_SHOWN = 3  # real videos
MIN_LEAD = 0.1  # of NetVLAD's GAP over that of the experts on averaged frames
MIN_SHARE_OF_IDEAL = 0.6  # of NetVLAD's GAP in the ideal scorer's
MOST_LOSS = 0.005  # of the ensemble's GAP, as int8, against its best member
START_TIMEOUT_S = 90.0
MARKER_FILE = ".yt8m_ray_demo"  # in a folder that the next demo may replace
SHARD = "sample://video_level/validate0.tfrecord"


@dataclass
class Demo:
    """One run of the demo in a folder, with the seconds of each step."""

    output: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, step: str, *command: str) -> str:
        """Runs a verb and returns the last line of its stdout."""
        logger.info("\n[%s] %s", step, shlex.join(["yt8m", *command]))
        with self.timed(step), contextlib.redirect_stdout(io.StringIO()) as stdout:
            call(command)
        return stdout.getvalue().strip().splitlines()[-1]

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[step] = time.monotonic() - started

    def synthesize(self, name: str, *, num_videos: int, seed: int = 0) -> float:
        """Writes synthetic frame-level shards and returns the GAP of the ideal scorer."""
        folder, split = self.output / "shards" / name, "train" if name == "train" else "validate"
        flags = f"--kind frame --split {split} --seed {seed} --num-shards 2 --videos-per-shard {num_videos // 2}"
        sizes = ("--num-classes", str(NUM_CLASSES))
        self.run(f"synthesize {name}", "synthesize", "--output", str(folder), *flags.split(), *sizes)
        document: dict[str, float] = json.loads((folder / "dataset.json").read_text())
        return document["ideal_scorer_gap"]

    def train(self, config: str, *keys: str) -> str:
        """Trains a config and returns its best checkpoint."""
        return self.run(f"train {config}", "train", config, f"output={self.output / 'runs'}", *keys)

    def shards(self, name: str) -> str:
        return str(self.output / "shards" / name / "*.tfrecord")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default="demo_output", help="a folder of the demo's own, replaced if it exists")


def run(options: argparse.Namespace) -> None:
    demo = Demo(Path(options.output).absolute())
    _clear(demo.output)
    with ray_cluster():
        real = demo.train("sample")
        ideal = [demo.synthesize("train", num_videos=1200), demo.synthesize("validate", num_videos=300)][1]
        demo.synthesize("held_out", num_videos=300, seed=1)
        data = (
            f"data.train={demo.shards('train')}",
            f"data.validation={demo.shards('validate')}",
            "train.report=false",
        )
        checkpoints = [demo.train(f"demo_{name}", *data) for name in ("netvlad", "moe")]
        members = [f"members.{number}.checkpoint={path}" for number, path in enumerate(checkpoints)]
        others = (f"weighting.shards={demo.shards('held_out')}", f"data.validation={demo.shards('validate')}")
        bundle = Path(demo.run("export", "export", "demo", *members, *others, f"output={demo.output / 'bundle'}"))
        with demo.timed("serve and predict"), served(demo.output / "runs" / "sample", demo.output) as url:
            answers = [predict(url, record) for record in itertools.islice(_records(), NUM_SHOWN)]
    print_answers(answers)
    gaps = print_tables(demo, checkpoints, bundle, ideal)
    print_next(demo, real, bundle)
    check(gaps, ideal)
    print_result(bundle)


@contextlib.contextmanager
def served(model: Path, output: Path) -> Iterator[str]:
    """Runs `yt8m serve` on this process's cluster and yields the service's URL; stops it at the end."""
    # Late: `ray_cluster` sets variables that Ray reads when it is imported.
    import ray

    # The system chooses a free port.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["serve", str(model), "--port", str(port)]
    logger.info("\n[serve and predict] %s", shlex.join(["yt8m", *command]))
    log_path = output / "serve.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "yt8m_ray", *command],
            env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
            stdout=subprocess.PIPE,
            stderr=log,
            # Ctrl-C reaches it through this process alone.
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            # Its address, once it answers there.
            url = process.stdout.readline().decode().strip()
            if not url:
                raise RuntimeError(f"the service did not start; the end of {log_path}:\n{log_path.read_text()[-2000:]}")
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def _records() -> Iterator[bytes]:
    """Yields the serialized records of the real validation videos."""
    from yt8m_ray.data.format.tfrecord import read_payloads
    from yt8m_ray.data.samples import resolve_sample

    path = resolve_sample(SHARD)
    with open(path, "rb") as stream:
        yield from (bytes(payload) for _, _, payload in read_payloads(stream, path=path))


def predict(url: str, record: bytes) -> dict[str, Any]:
    """Sends a record to the service and returns its answer, with the labels that the record carries."""
    import requests

    from yt8m_ray.data.format.example import decode_record

    headers = {"content-type": "application/octet-stream"}
    response = requests.post(f"{url}/v1/predict?top_k=5", data=record, headers=headers, timeout=60)
    response.raise_for_status()
    labels = decode_record(record).context.get("labels")
    return {**response.json(), "known": [] if labels is None else [int(label) for label in labels]}


def print_answers(answers: list[dict[str, Any]]) -> None:
    from yt8m_ray.data.labels.vocabulary import Vocabulary

    names = Vocabulary.load()
    for answer in answers:
        (prediction,) = answer["predictions"]
        known = ", ".join(names.name(label) or "-" for label in answer["known"])
        print(f"\nVideo {prediction['video_id']}, whose labels are: {known}")
        for label in prediction["labels"]:
            is_true = "  <- label" if label["class_id"] in answer["known"] else ""
            print(f"  {label['score']:.4f}  {label['class_id']:4d}  {label['name'] or '-'}{is_true}")


def print_tables(demo: Demo, checkpoints: list[str], bundle: Path, ideal: float) -> dict[str, float]:
    """Prints what was measured and how long it took, and returns the GAP of each model on synthetic frames."""
    from yt8m_ray.artifacts.checkpoint_folders import best_checkpoint
    from yt8m_ray.artifacts.folder_manifest import MODEL_FILE
    from yt8m_ray.inference.bundle.document import read_document

    quality = read_document(bundle).quality
    rows = []
    for name, path in zip(("netvlad", "moe"), checkpoints, strict=True):
        gap = best_checkpoint(Path(path).parent)[1]["validation/gap"]
        rows.append((name, gap, Path(path, MODEL_FILE).stat().st_size))
    stored = sum(path.stat().st_size for path in bundle.rglob(MODEL_FILE))
    rows.append(("ensemble, float32", quality.gap_before, sum(size for _, _, size in rows)))
    rows.append(("ensemble, int8", quality.gap_after, stored))
    print(f"\n{'on synthetic frames':24}{'validation GAP':>16}{'of the ideal':>14}{'MB':>8}")
    for name, gap, size in rows:
        print(f"{name:24}{gap:16.4f}{gap / ideal:14.1%}{size / 1e6:8.2f}")
    print(f"{'the ideal scorer':24}{ideal:16.4f}\n")
    for step, seconds in demo.seconds.items():
        print(f"{step:24}{seconds:8.1f} s")
    print(f"{'together':24}{sum(demo.seconds.values()):8.1f} s")
    return {name: gap for name, gap, _ in rows}


def print_next(demo: Demo, real: str, bundle: Path) -> None:
    """Prints what a newcomer may type next."""
    from yt8m_ray.tracking.runs import default_uri

    lines = {
        "the service, with its page": f"yt8m serve {Path(real).parent}",
        "predictions for shards": f"yt8m predict {Path(real).parent} {SHARD} --output predictions.csv",
        "what the ensemble is": f"yt8m describe {bundle}",
        "the report of a run": f"{Path(real).parent}/report/report.html",
        "all runs in MLflow": f"mlflow ui --backend-store-uri {default_uri(demo.output / 'runs')}",
    }
    print("\nNext:")
    for what, command in lines.items():
        print(f"  {what:28}{command}")
    print()


def check(gaps: dict[str, float], ideal: float) -> None:
    """Raises RuntimeError unless the models are as good as the planted data allows."""
    netvlad, moe, ensemble = gaps["netvlad"], gaps["moe"], gaps["ensemble, int8"]
    if netvlad < moe + MIN_LEAD or netvlad < MIN_SHARE_OF_IDEAL * ideal:
        raise RuntimeError(
            f"NetVLAD's GAP is {netvlad:.4f}; expected at least {MIN_LEAD} more than the experts' {moe:.4f}, and "
            f"{MIN_SHARE_OF_IDEAL} of the ideal scorer's {ideal:.4f}"
        )
    if ensemble < max(netvlad, moe) - MOST_LOSS:
        raise RuntimeError(f"the ensemble's GAP is {ensemble:.4f}, less than its best member's {max(netvlad, moe):.4f}")


def _clear(output: Path) -> None:
    """Empties the folder of an earlier demo; raises ConfigError for another folder with files."""
    if output.exists() and any(output.iterdir()) and not (output / MARKER_FILE).is_file():
        raise ConfigError(f"--output: {output} holds something else than an earlier demo; choose another folder")
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    (output / MARKER_FILE).touch()

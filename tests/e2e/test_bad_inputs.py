"""Bad inputs through the commands: one message that says where, the right exit code, and nothing half-written."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.e2e.conftest import NUM_CLASSES, Head, RunVerb, Shards
from tests.e2e.processes import Outcome
from yt8m_ray.artifacts.checkpoint import save_checkpoint
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.models import build_model

IS_SOAK = os.environ.get("YT8M_SOAK") == "1"

PARALLEL = 3
"""Commands at a time: each spends much of its seconds waiting for processes to start."""


def offset_of(shard: bytes, record: int) -> int:
    """Returns where a record begins, by walking the framing: 8 bytes of length, 4 bytes, the payload, 4 bytes."""
    offset = 0
    for _ in range(record):
        offset += 16 + int(struct.unpack_from("<Q", shard, offset)[0])
    return offset


def truncate(shard: bytes) -> bytes:
    return shard[: offset_of(shard, 10) + 100]


def flip_a_bit(shard: bytes) -> bytes:
    position = offset_of(shard, 7) + 50
    return shard[:position] + bytes([shard[position] ^ 4]) + shard[position + 1 :]


def empty(_: bytes) -> bytes:
    return b""


def write_text(_: bytes) -> bytes:
    return b"id,labels,mean_rgb\n" * 50


def write_predictions(_: bytes) -> bytes:
    return b"VideoId,LabelConfidencePairs\nabcd,1 0.5 2 0.25\nefgh,1 0.5 2 high\n"


def write_aliases(_: bytes) -> bytes:
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)]
    return "".join(["a0: &a0 [ha]\n", *lines]).encode()


@dataclass(frozen=True)
class Case:
    """A command line with something wrong in it.

    Attributes:
        command: With {bad}, a spoiled shard, {glob}, it and a good one, {good}, good ones, {folder}, where the spoiled
            one is, {model}, a checkpoint, {export}, an export of it, and {output}, a folder that does not exist.
        message: A pattern of the whole message, with {bad} and {offset}, where the bad record begins.
        code: The exit code.
        spoil: Makes the spoiled shard.
        record: The bad record in it.
    """

    command: str
    message: str
    code: int
    spoil: Callable[[bytes], bytes] = bytes
    record: int = 0


TRAIN = (
    "train model.name=moe output={output} run.name=bad train.batch_size=32 data.validation={held_out} "
    f"data.num_classes={NUM_CLASSES} "
)
EVALUATE = "evaluate {model} "
PREDICT = "predict {model} --output {output}/predictions.csv "
EXPORT = "export {export} output={output}/bundle "

TRUNCATED = r"{bad}: record 10 at byte {offset}: \d+ bytes promised, 88 found"
FLIPPED = r"{bad}: record 7 at byte {offset}: .*checksum.*"
EMPTY = r"{bad}: record 0 at byte 0: 0 bytes: no record"
TEXT = r"{bad}: record 0 at byte 0: not a TFRecord shard: .*"
CLASS_ID = r"\S+\.tfrecord: record \d+ at byte \d+: labels: class id [4-7] is out of range, valid are 0 to 3"
FEATURE_SIZE = r"\S+\.tfrecord: record 0 at byte 0: mean_rgb: expected 512 float32 values, found 1024 float32 values"
NO_MODEL = r".*\bno: there is no such folder; .*"
UNKNOWN_KEY = r"command line: train\.num_epoch: unknown key; valid: .*num_epochs.*"

FAULTS: dict[str, tuple[str, Callable[[bytes], bytes], int]] = {
    "a truncated shard": (TRUNCATED, truncate, 10),
    "a flipped bit": (FLIPPED, flip_a_bit, 7),
    "an empty file": (EMPTY, empty, 0),
    "a text file": (TEXT, write_text, 0),
}
DATA_KEYS = {TRAIN: "data.train=", EVALUATE: "data.test=", PREDICT: "", EXPORT: "data.validation="}

CASES = {
    "train: a truncated shard": Case(TRAIN + "data.train={glob}", TRUNCATED, 1, truncate, 10),
    "train: an empty file": Case(TRAIN + "data.train={bad}", EMPTY, 1, empty),
    "train: a missing path": Case(TRAIN + "data.train=no/*.tfrecord", r"data\.train: no file matches '\S*no/.*'", 2),
    "train: a folder": Case(TRAIN + "data.train={folder}", r"data\.train: \S+ is a folder; expected files, .*", 2),
    "train: an unknown key": Case(TRAIN + "data.train={good} train.num_epoch=3", UNKNOWN_KEY, 2),
    "train: a value out of range": Case(
        TRAIN + "data.train={good} train.batch_size=0", r"command line: train\.batch_size: .* than 0, found 0", 2
    ),
    "train: a missing config": Case("train configs/train/no.yaml", r"configs/train/no\.yaml: cannot read the .*", 2),
    "train: a config of aliases": Case("train {bad}", r"{bad}: line 2: a1\.0: found the alias .*", 2, write_aliases),
    "train: a device as a config": Case("train /dev/zero", r"/dev/zero: cannot read the .* found a device", 2),
    "train: a device as a shard": Case(
        TRAIN + "data.train=/dev/zero", r"data\.train: /dev/zero: expected a regular file, found a device", 2
    ),
    "train: a store that is none": Case(TRAIN + "data.train={good} tracking.uri=no", r"tracking\.uri: expected .*", 2),
    "evaluate: a flipped bit": Case(EVALUATE + "data.test={glob}", FLIPPED, 1, flip_a_bit, 7),
    "evaluate: a missing checkpoint": Case("evaluate no data.test={good}", NO_MODEL, 2),
    "report: a missing run": Case("report no", NO_MODEL, 2),
    "predict: a truncated shard": Case(PREDICT + "{glob}", TRUNCATED, 1, truncate, 10),
    "predict: a missing checkpoint": Case("predict no {good} --output {output}/p.csv", NO_MODEL, 2),
    "export: a text file": Case(EXPORT + "data.validation={glob}", TEXT, 1, write_text),
    "export: a missing checkpoint": Case(EXPORT + "members.0.checkpoint=no", NO_MODEL, 2),
    "distill: the best entries as published": Case(
        "distill {model} {good} --output {output} --format tfrecord --top 3", r"top: the published format holds .*", 2
    ),
    "boost: a file of another kind": Case(
        "boost {model} {good} --output {output}/w.csv", r"--output: expected a local name that ends in \.parquet, .*", 2
    ),
    "find_lr: labels of a teacher that are not there": Case(
        f"find_{TRAIN}data.train={{good}} distillation.labels=no".replace("find_train", "find_lr"),
        r"distillation\.labels: .*",
        2,
    ),
    "merge: a score that is none": Case(
        "merge {bad} --output {output}/m.csv", r"{bad}: line 3: score 'high': expected a number", 1, write_predictions
    ),
    "merge: a missing file": Case("merge no.csv --output {output}/m.csv", r"no\.csv: expected a local file of .*", 2),
    "merge: too many weights": Case(
        "merge {bad} --weights 1 2 --output {output}/m.csv", r"weights: expected one a file, 1, found 2", 2
    ),
    "merge: another format to write": Case("merge {bad} --output {output}/m.json", r"output: expected a name .*", 2),
    "merge: nothing to do": Case("merge {bad}", r"nothing to do: give --output, --score or --correlation", 2),
    "truth: a truncated shard": Case("truth {glob} --output {output}/t.csv", TRUNCATED, 1, truncate, 10),
    "synthesize: a folder that is in use": Case("synthesize --output {folder}", r"\S+: expected a folder .*", 1),
    "synthesize: too many classes": Case(
        "synthesize --output {output} --num-classes 5000", r"command line: num_classes: .*, found '5000'", 2
    ),
}
EVERYTHING = {
    f"{command.split()[0]}: {fault}": Case(f"{command}{key}{{glob}}", message, 1, spoil, record)
    for command, key in DATA_KEYS.items()
    for fault, (message, spoil, record) in FAULTS.items()
}
EVERYTHING["train: only a text file"] = Case(TRAIN + "data.train={bad}", TEXT, 1, write_text)
EVERYTHING["train: a class id out of range"] = Case(TRAIN + "data.train={good} data.num_classes=4", CLASS_ID, 1)
EVERYTHING["train: a wrong feature size"] = Case(
    TRAIN + "data.train={good} data.features.mean_rgb=512", FEATURE_SIZE, 1
)


RECORDS_OF_A_FAILED_RUN = {
    *(
        "mlflow.db",
        "mlflow.db.lock",
        "bad/mlflow.json",
        "bad/run.json",
        "bad/run.lock",
        "bad/train.log",
    ),
}


@dataclass(frozen=True)
class Ended:
    """A case that was run: what the command left, in which folder, and what its message has to be."""

    case: Case
    outcome: Outcome
    output: Path
    message: str


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights."""
    data = {"features": {"mean_rgb": 1024, "mean_audio": 128}, "num_classes": NUM_CLASSES}
    config = TrainConfig.model_validate({"run": {"name": "any"}, "data": data, "model": {"name": "logistic"}})
    torch.manual_seed(0)
    model = build_model(config.model, feature_sizes=[1024, 128], num_classes=NUM_CLASSES)
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, config=config, model=model, state={}, facts={})
    return folder


@pytest.fixture(scope="module")
def ended(
    run_verb: RunVerb,
    head: Head,
    video_shards: Shards,
    checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Future[Ended]]]:
    """Runs all cases, a few at a time, on one cluster."""
    shard = Path(video_shards.first_train).read_bytes()

    def run(case: Case) -> Ended:
        folder = tmp_path_factory.mktemp("case")
        bad = folder / "shards" / "train0001.tfrecord"
        bad.parent.mkdir()
        bad.write_bytes(case.spoil(shard))
        (folder / "shards" / "train0000.tfrecord").write_bytes(shard)
        export = folder / "export.yaml"
        export.write_text(
            f"members: [{{checkpoint: {checkpoint}}}]\ntracking: {{uri: 'sqlite:///{folder}/mlflow.db'}}\n"
        )
        places = {"bad": bad, "glob": bad.parent / "*.tfrecord"}
        places |= {"good": video_shards.train, "held_out": video_shards.validation}
        places |= {"folder": bad.parent, "model": checkpoint, "export": export}
        command = case.command.format(**places, output=folder / "output")
        outcome = run_verb(*command.split(), **head.environment)
        message = case.message.format(bad=re.escape(str(bad)), offset=offset_of(shard, case.record))
        return Ended(case, outcome, folder / "output", message)

    cases = EVERYTHING | CASES if IS_SOAK else CASES
    pool = ThreadPoolExecutor(PARALLEL)
    yield {name: pool.submit(run, case) for name, case in cases.items()}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", CASES)
def test_a_bad_input_is_one_message_and_leaves_nothing(ended: dict[str, Future[Ended]], name: str) -> None:
    check(ended[name].result())


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(EVERYTHING.keys() - CASES.keys()))
def test_every_bad_shard_is_one_message_of_every_verb(ended: dict[str, Future[Ended]], name: str) -> None:
    check(ended[name].result())


def check(ended: Ended) -> None:
    stderr = ended.outcome.stderr
    assert ended.outcome.code == ended.case.code, stderr
    assert ended.outcome.stdout == ""
    errors = [line.removeprefix("error: ") for line in stderr.splitlines() if "error: " in line]
    assert len(errors) == 1, stderr
    assert re.fullmatch(ended.message, errors[0]), stderr
    assert "Traceback" not in stderr
    left = {path.relative_to(ended.output).as_posix() for path in ended.output.rglob("*") if path.is_file()}
    if "bad/run.json" in left:
        assert json.loads((ended.output / "bad" / "run.json").read_text())["status"] == "failed"
    assert left <= RECORDS_OF_A_FAILED_RUN, "half-written"
    assert ended.case.code == 1 or not ended.output.exists()

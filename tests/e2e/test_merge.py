"""`jobs.truth` and `jobs.merge` as a user types them: what goes to stdout and what to stderr, and how little starts."""

from __future__ import annotations

import glob
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import NUM_CLASSES, RunVerb, Shards
from tests.e2e.processes import ROOT


@pytest.fixture(scope="module")
def truth(run_verb: RunVerb, video_shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("truth") / "truth.csv"
    flags = ["--output", str(path), "--header", "--num-classes", str(NUM_CLASSES)]
    outcome = run_verb("truth", *glob.glob(video_shards.validation), *flags)
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout == f"{path}\n"
    return path


@pytest.fixture(scope="module")
def predictions(truth: Path) -> list[str]:
    """Two files: one finds all labels, the other, in another order and without the first video, all but the best."""
    header, *lines = truth.read_text().splitlines()
    assert header == "VideoId,Labels" and len(lines) == 400
    labels = {video: list(map(int, text.split())) for video, _, text in (line.partition(",") for line in lines)}
    every = truth.with_name("every.csv")
    every.write_text("".join(f"{v},{' '.join(f'{c} 0.5' for c in found)}\n" for v, found in labels.items()))
    others = truth.with_name("others.csv")
    rest = list(labels.items())[:0:-1]
    others.write_text("".join(f"{v},{' '.join(f'{c} 0.25' for c in found[1:])}\n" for v, found in rest))
    return [str(every), str(others)]


def test_a_perfect_prediction_has_a_perfect_score(run_verb: RunVerb, truth: Path, predictions: list[str]) -> None:
    outcome = run_verb("merge", predictions[0], "--score", str(truth))
    assert outcome.code == 0, outcome.stderr
    expected = {"gap": 1, "per_video_ap": 1, "hit_at_1": 1, "perr": 1, "num_videos": 400, "missing": 0, "unknown": 0}
    assert json.loads(outcome.stdout) == pytest.approx(expected)


def test_with_a_file_to_write_stdout_is_its_path_alone(
    run_verb: RunVerb, truth: Path, predictions: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "merged.csv"
    flags = ["--output", str(output), "--weights", "3", "1", "--score", str(truth), "--correlation"]
    outcome = run_verb("merge", *predictions, *flags)
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout == f"{output}\n"
    (document,) = (json.loads(line) for line in outcome.stderr.splitlines() if line.startswith("{"))
    assert document["gap"] == pytest.approx(1)
    assert document["correlation"]["files"] == predictions
    assert f"{predictions[1]}: 1 of 400 videos are missing: " in outcome.stderr
    assert len(output.read_text().splitlines()) == 401


def test_merging_imports_neither_torch_nor_ray() -> None:
    code = "import sys, jobs.merge; print(*sorted({'torch', 'ray', 'mlflow', 'pandas'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stdout + result.stderr

"""A run whose output is an object store: trained, continued by a machine that has seen nothing of it, evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import NUM_CLASSES, RunVerb, Shards
from tests.support.object_store import BUCKET, ENVIRONMENT, ObjectStore

pytestmark = pytest.mark.soak

RUN = f"s3://{BUCKET}/runs/run"


def test_a_run_in_a_store_is_continued_and_scored_from_there(
    run_verb: RunVerb, video_shards: Shards, tmp_path: Path
) -> None:
    settings = f"data.num_classes={NUM_CLASSES} scaling.num_workers=2 train.batch_size=20 checkpoint.every_steps=10"
    paths = [f"data.train={video_shards.train}", f"data.validation={video_shards.validation}"]
    line = [
        f"output=s3://{BUCKET}/runs",
        f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
        "run.name=run",
        "model.name=moe",
    ]
    with ObjectStore() as store:
        environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": store.url}
        first, second, again = (
            run_verb(
                *("train", *line, *paths, *settings.split(), f"train.num_epochs={num_epochs}"),
                **{**environment, "YT8M_CACHE": str(tmp_path / cache)},
            )
            for cache, num_epochs in (("one", 1), ("two", 2), ("two", 2))
        )
        scored = run_verb("evaluate", "--watch", RUN, f"data.test={video_shards.validation}", **environment)

    for outcome in (first, second, again, scored):
        assert outcome.code == 0, outcome.stderr
    assert first.result.startswith(f"{RUN}/epoch_0001_step_")
    assert second.result.startswith(f"{RUN}/epoch_")
    assert again.result == second.result
    assert "continuing from" in second.stderr
    assert "is finished already" in again.stderr
    lines = [json.loads(line) for line in scored.stdout.splitlines()]
    assert second.result.rpartition("/")[2] in [line["checkpoint"] for line in lines]
    assert [line["num_videos"] for line in lines] == [400] * len(lines)

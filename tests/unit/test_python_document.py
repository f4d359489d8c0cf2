"""docs/python.md: its blocks, but for those that need Ray, run in their order; and what else the library promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import yt8m_ray
from tests.support.tiny import save_checkpoint_of
from yt8m_ray.components import MODELS
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.samples import samples_folder

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "python.md"
SHARD = "sample://video_level/validate0.tfrecord"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with `runs/sample`, which is as `yt8m train sample` begins."""
    place = tmp_path_factory.mktemp("python")
    (place / "runs").mkdir()
    config = yt8m_ray.load_config("sample")
    save_checkpoint_of(place / "runs" / "sample", data=config.data.model_dump(), model=config.model.model_dump())
    return place


def test_the_blocks_of_the_document_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S))

    namespace: dict[str, object] = {}
    exec(compile(code, str(DOCUMENT), "exec"), namespace)

    gap: Any = namespace["gap"]
    assert 0 < gap.compute() <= 1


def test_the_library_is_imported_lazily() -> None:
    code = "import sys, yt8m_ray; print(*sorted({'torch', 'ray', 'numpy', 'pydantic', 'mlflow'} & set(sys.modules)))"

    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True
    )

    assert (result.returncode, result.stdout.strip()) == (0, b"")


def test_every_public_name_is_there() -> None:
    names = [name for name in dir(yt8m_ray) if name[0].isalpha()]

    assert {"load", "train", "read_videos", "create_model", "YT8MError"} <= set(names)
    assert all(getattr(yt8m_ray, name) is not None for name in names)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = yt8m_ray.nothing


def test_arrays_records_and_shards_give_the_same_predictions(place: Path) -> None:
    model = yt8m_ray.load(place / "runs" / "sample")
    videos = list(yt8m_ray.read_videos(SHARD, labels="ignored"))[:5]

    by_array = model.predict([video.frames[0] for video in videos], top_k=4)
    shard = [found for found, _ in zip(model.predict_shards(SHARD, top_k=4), videos, strict=False)]

    assert [each.video_id for each in shard] == [video.video_id for video in videos]
    assert [each.class_ids for each in by_array] == [each.class_ids for each in shard]
    np.testing.assert_allclose([each.scores for each in by_array], [each.scores for each in shard], rtol=1e-6)


def test_frames_as_floats_are_those_that_were_stored(tmp_path: Path) -> None:
    model = yt8m_ray.load(save_checkpoint_of(tmp_path / "frames"))
    stored = np.random.default_rng(0).integers(0, 256, (6, sum(model.features.values())), dtype=np.uint8)

    as_floats = stored * (4.0 / 255.0) + 4.0 / 512.0 - 2.0

    assert model.predict([stored]) == model.predict([as_floats])


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (np.zeros(7), r"video 0: expected an array \[1152\], found \[7\]"),
        (np.zeros((2, 1152)), r"video 0: expected an array \[1152\], found \[2, 1152\]"),
        (np.full(1152, np.nan), "video 0: expected finite numbers"),
        ({"mean_rgb": np.zeros(1024)}, "video 0: the model needs mean_audio; found mean_rgb"),
    ],
)
def test_a_video_that_does_not_fit_is_refused(place: Path, video: object, message: str) -> None:
    with pytest.raises(yt8m_ray.InputError, match=message):
        yt8m_ray.load(place / "runs" / "sample").predict([video])  # type: ignore[list-item]


@pytest.mark.parametrize("shards", ["sample://video_level/train*.tfrecord", SHARD])
@pytest.mark.parametrize("num_workers", [0, 2, 3])
def test_every_video_comes_once_over_the_workers_of_a_loader(shards: str, num_workers: int) -> None:
    dataset = yt8m_ray.VideoDataset(shards)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=num_workers)

    found = [video.video_id for video in loader]

    assert sorted(found) == sorted(video.video_id for video in yt8m_ray.read_videos(shards))
    assert len(found) == len(set(found)) and dataset.options == ReadOptions()


def test_a_model_begins_with_the_weights_of_another(place: Path) -> None:
    settings = yt8m_ray.load_config("sample").model.model_dump()
    loaded = yt8m_ray.load(place / "runs" / "sample").module

    model = yt8m_ray.create_model(**settings, features="video", weights=place / "runs" / "sample")

    torch.testing.assert_close(model.state_dict(), loaded.state_dict())


def test_models_are_found_by_a_pattern() -> None:
    assert yt8m_ray.list_models() == MODELS.names()
    assert yt8m_ray.list_models("net*") == ["netfv", "netvlad"]
    assert samples_folder().is_dir()

"""What `ray job submit --working-dir .` uploads."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).resolve().parents[2]
MAX_UPLOAD_BYTES = 7_000_000  # Ray refuses 100 MB; the code and the vocabulary are some 2 MB


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("upload") / "package.zip"
    create_package(str(ROOT), path, include_gitignore=True)
    return path


def test_the_upload_holds_the_code_the_configs_and_the_vocabulary(upload: Path) -> None:
    names = zipfile.ZipFile(upload).namelist()

    for expected in ("yt8m_ray/schema.py", "yt8m_ray/data/labels/vocabulary.csv", "jobs/train.py", "serve/app.py"):
        assert expected in names
    assert any(name.startswith("configs/train/") for name in names)


def test_the_upload_is_small_and_leaves_the_environment_data_and_results_behind(upload: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(upload).namelist()}

    assert tops == {"yt8m_ray", "jobs", "serve", "configs", "samples"}
    assert upload.stat().st_size < MAX_UPLOAD_BYTES

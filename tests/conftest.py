"""Fixtures and the environment that every test runs in; set before anything can import Ray or MLflow."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support.warm import WarmPython
from yt8m_ray.local_cluster import LOOPBACK_ONLY

ROOT = Path(__file__).resolve().parents[1]

ENVIRONMENT = {
    **LOOPBACK_ONLY,
    "RAY_AUTH_TOKEN": secrets.token_hex(16),  # otherwise one would be written into the home folder
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "false",  # workers of no runtime environment, which none of ours would be
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # with the patch each line of a worker appears twice
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # each run ends one interval late; the default is 2 s
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "OMP_NUM_THREADS": "1",  # two threads on a busy two-core machine wait for each other in every operation
    "PYTHONUNBUFFERED": "1",
}

os.environ.update(ENVIRONMENT)
for _name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "MLFLOW_TRACKING_URI"):
    os.environ.pop(_name, None)  # tests touch nobody's cluster and nobody's store
# Ray's workers and the commands under test import jobs, serve and the test modules by name.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

IS_SOAK = os.environ.get("YT8M_SOAK") == "1"

# A shared machine makes any deadline a lottery; pytest-timeout catches what hangs.
hypothesis.settings.register_profile("test", deadline=None, max_examples=50, print_blob=True)
hypothesis.settings.register_profile("soak", deadline=None, max_examples=2000, print_blob=True)
hypothesis.settings.load_profile("soak" if IS_SOAK else "test")


ORDER = ("unit", "e2e", "integration")
"""Quick ones first; the cluster of the integration tests lives to the end, and commands start clusters of their own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.index(item.path.relative_to(ROOT / "tests").parts[0]))
    if not IS_SOAK:
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="full counts run with YT8M_SOAK=1 (make soak)"))


@pytest.fixture(scope="session")
def yt8m_data() -> Path:
    """Returns the folder of real shards: $YT8M_DATA, else ../shared/data beside the repository."""
    configured = os.environ.get("YT8M_DATA")
    path = Path(configured) if configured else ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no real data: {path} is not a folder; set YT8M_DATA to one")
    return path.resolve()


@pytest.fixture(scope="session")
def own_temporary_folder() -> Iterator[None]:
    """Takes another temporary folder than the processes that run other tests meanwhile: some look at what is left."""
    # Sockets are in folders of it, whose paths have to be short.
    with tempfile.TemporaryDirectory(prefix="y_") as folder, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="session")
def warm_python() -> Iterator[WarmPython]:
    """A process that has imported what takes long, for commands and workers of Ray that are forks of it."""
    with tempfile.TemporaryDirectory(prefix="yt8m_") as folder, contextlib.closing(WarmPython(Path(folder))) as warm:
        yield warm


@pytest.fixture(scope="session")
def ray_cluster(warm_python: WarmPython, own_temporary_folder: None) -> Iterator[None]:
    """Starts one local cluster of 4 logical CPUs for all integration tests and stops it at the end."""
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized(), "another test left a cluster running"
    import ray

    ray.init(
        address="local",  # never the cluster that a killed `ray start` left in Ray's temp folder
        num_cpus=4,  # logical: two workers and the readers that feed them, on two cores
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=1024**3,
        log_to_driver=False,
        runtime_env={"py_executable": warm_python.executable},
    )
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture
def save_tiny_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that saves a model with random weights and returns the checkpoint's folder.

    Its keyword arguments are sections of the config (`data`, `model`); features have 8 and 4 values, classes are 30.
    With `ema` in them, the moving average has the opposite weights.
    """
    from tests.support.tiny import save_checkpoint_of

    def save(name: str = "checkpoint", **arguments: Any) -> Path:
        return save_checkpoint_of(tmp_path / name, **arguments)

    return save


@pytest.fixture
def write_tiny_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that makes a bundle of two tiny members with random weights, 3 to 1, and returns its path.

    Its arguments are the name of the bundle, `export` with sections of the export's config, `transforms` of the
    members, and sections of their config as of `save_tiny_checkpoint`.
    """
    from tests.support.tiny import write_bundle_of

    def write(name: str = "bundle", **arguments: Any) -> Path:
        return write_bundle_of(tmp_path / name, **arguments)

    return write

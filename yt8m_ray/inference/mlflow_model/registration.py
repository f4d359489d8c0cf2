"""Bundles in MLflow: as the model of a run, and as the version of a registered model that an alias points to."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from yt8m_ray.artifacts.folder_manifest import folder_version
from yt8m_ray.config.document import flatten
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.bundle.document import BundleDocument, open_bundle
from yt8m_ray.inference.mlflow_model.pyfunc import save_pyfunc_model
from yt8m_ray.tracking.models import check_names, find_model, log_model, register_model
from yt8m_ray.tracking.runs import Tracker, TrackingError, default_uri
from yt8m_ray.tracking.source import source_tags

logger = logging.getLogger(__name__)

# Tag of a model with the short hash of its bundle's contents: an experiment keeps the same bundle once.
BUNDLE_TAG = "yt8m_ray.bundle"
_SQLITE = "sqlite:///"


def log_bundle(tracker: Tracker, folder: Path, document: BundleDocument) -> str:
    """Logs a bundle's GAP, and the bundle as a model of the run; returns the id of the model."""
    quality = document.quality
    gaps = {"validation/gap": quality.gap_after, "validation/gap_float32": quality.gap_before}
    if document.weighting is not None:
        gaps["weighting/gap_cross_fitted"] = document.weighting.gap_cross_fitted
    tracker.log_metrics(gaps, step=0)
    with tempfile.TemporaryDirectory(prefix="yt8m-model-") as aside:
        save_pyfunc_model(folder, Path(aside) / "model")
        tags = {BUNDLE_TAG: folder_version(folder)}
        return log_model(tracker, Path(aside) / "model", name="bundle", tags=tags)


def register_bundle(path: str | Path, uri: str, *, name: str, alias: str, experiment: str) -> str:
    """Makes a bundle, a folder or tar, the newest version of the registered model `name`, and returns that version.

    A bundle that is a run of `experiment` is not copied again; one that is a version already only gets the alias.

    Raises:
        ConfigError: MLflow takes no such name or alias, there is no such bundle, or MLflow has no store of that kind.
        TrackingError: MLflow refuses, or cannot be reached.
        ValueError, OSError: the bundle is damaged.
    """
    check_names(name, alias)
    folder, document = open_bundle(path)
    tags = {BUNDLE_TAG: folder_version(folder)}
    model_id = find_model(uri, experiment=experiment, tags=tags)
    if model_id is None:
        tracker = Tracker.start(
            uri,
            experiment=experiment,
            run_name=Path(path).name,
            params=flatten(document),
            # Beside a SQLite store; a server has a place of its own.
            artifact_path=Path(uri.removeprefix(_SQLITE)).parent / "mlartifacts",
            tags=source_tags("registration"),
        )
        with finishing(tracker):
            model_id = log_bundle(tracker, folder, document)
        logger.info("MLflow: run %s in %s", tracker.run_id, uri)
    version = register_model(uri, model_id, name=name, alias=alias, tags=tags)
    logger.info("registered as version %s of %s, alias %s", version, name, alias)
    return version


@contextlib.contextmanager
def finishing(tracker: Tracker) -> Iterator[None]:
    """Ends a run when the `with` block does: as failed after an error."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(TrackingError):  # most likely the first error, again
            tracker.finish("FAILED")
        raise
    tracker.finish("FINISHED")


def store_beside(bundle: Path) -> str:
    """Returns the SQLite store of the runs beside a bundle; ConfigError where there is none."""
    uri = default_uri(bundle.parent)
    store = uri.removeprefix(_SQLITE)
    if not Path(store).is_file():
        raise ConfigError(f"uri: {store} does not exist; name a server, or a store as sqlite:////absolute/mlflow.db")
    return uri

"""The report of a run: its facts, curves and worst videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from yt8m_ray.artifacts.checkpoint import load_details
from yt8m_ray.artifacts.checkpoint_folders import load_config
from yt8m_ray.artifacts.folder_manifest import read_manifest
from yt8m_ray.config.document import flatten
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.inference.locate import locate_checkpoint
from yt8m_ray.models import build_empty_model
from yt8m_ray.models.cost import count_macs, num_parameters
from yt8m_ray.reporting.document import Section, write_document
from yt8m_ray.tracking.history import read_curves
from yt8m_ray.training.run import report_pictures as pictures
from yt8m_ray.training.run.run_folder import REPORT_FOLDER

_MAX_VIDEOS = 20
_MAX_NAMES = 5
_METRICS = {**pictures.QUALITIES, "loss": "loss", "num_videos": "videos", "mean_ap_num_classes": "classes with a video"}


def write_report(path: str | Path, output: str | Path | None = None) -> Path:
    """Writes the report of a run's best checkpoint, or of the checkpoint given, and returns the path of report.html.

    `path` is as `locate_model` takes it, mostly the folder of a run or of a checkpoint in one; `output` is `report` in
    the run's folder by default. CheckpointError where there is no intact checkpoint.
    """
    checkpoint = locate_checkpoint(path)
    metrics = cast(dict[str, float], read_manifest(checkpoint, kind="checkpoint").get("metrics", {}))
    run_path = checkpoint.parent
    folder = run_path / REPORT_FOLDER if output is None else Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    config = load_config(checkpoint)
    sections = [
        *_facts(config, checkpoint, metrics),
        *_curves(folder, run_path),
        *_details(folder, load_details(checkpoint), _class_names(config)),
    ]
    return write_document(folder, config.run.name, sections)


def _facts(config: TrainConfig, checkpoint: Path, metrics: Mapping[str, Any]) -> list[Section]:
    found = {label: metrics.get(f"validation/{name}") for name, label in _METRICS.items()}
    measured = {label: value for label, value in found.items() if value is not None}
    validation = Section("Validation", f"Checkpoint {checkpoint.name} was not validated.")
    if measured:
        values = [f"{value:,.0f}" if float(value).is_integer() else f"{value:.4f}" for value in measured.values()]
        epoch = f" after epoch {metrics['epoch']}" if "epoch" in metrics else ""
        validation = Section("Validation", f"Checkpoint {checkpoint.name}{epoch}.", list(measured), [values])
    changed = flatten(config, exclude_defaults=True)
    rows = [("model.name", config.model.name), *_size(config)]
    rows += [
        (key, f"{value:g}" if isinstance(value, float) else str(value))
        for key, value in changed.items()
        if key != "model.name" and value != {}
    ]
    return [validation, Section("Run", "What differs from the defaults.", ("key", "value"), rows)]


def _size(config: TrainConfig) -> list[tuple[str, str]]:
    is_frame_level = not config.data.spec.is_video_level
    num_frames = config.data.max_frames if is_frame_level else 1
    model = build_empty_model(
        config.model, feature_sizes=config.data.feature_sizes, num_classes=config.data.num_classes
    )
    if model is None:
        return []
    macs = count_macs(model, num_frames=num_frames)
    frames = f" (a clip of {num_frames} frames)" if is_frame_level else ""
    return [("parameters", f"{num_parameters(model):,}"), ("multiply-accumulates a video", f"{macs:,}{frames}")]


def _curves(folder: Path, run_path: Path) -> list[Section]:
    has_any = pictures.draw_curves(folder / pictures.CURVES, read_curves(run_path))
    return [Section("Curves", picture=pictures.CURVES)] if has_any else []


def _details(folder: Path, details: Mapping[str, np.ndarray], names: Sequence[str]) -> list[Section]:
    if not details:
        return []
    shown = [names[class_id] for class_id in details["curve_class_ids"]]
    pictures.draw_classes(folder / pictures.CLASSES, details)
    pictures.draw_precision_recall(folder / pictures.PRECISION, details, shown)
    pictures.draw_calibration(folder / pictures.CALIBRATION, details)
    return [
        Section("Classes", picture=pictures.CLASSES),
        Section("Best and worst classes", "Of those with ten validation videos or more.", picture=pictures.PRECISION),
        Section("Calibration", picture=pictures.CALIBRATION),
        Section(
            "Worst videos",
            "By the average precision of the video's own ranking; those that the model is surest about come first.",
            ("video", "AP", "labels", "predictions"),
            list(_worst_videos(details, names)),
        ),
    ]


def _worst_videos(details: Mapping[str, np.ndarray], names: Sequence[str]) -> list[tuple[str, str, str, str]]:
    rows = []
    for row, encoded in enumerate(details["worst_video_ids"][:_MAX_VIDEOS]):
        # Rows of classes are filled up with -1.
        labels = [names[class_id] for class_id in details["worst_labels"][row] if class_id >= 0]
        pairs = zip(details["worst_class_ids"][row], details["worst_scores"][row], strict=True)
        guesses = [f"{names[class_id]} {score:.2f}" for class_id, score in pairs if class_id >= 0]
        # An array of ids has rows of equal length, filled up with zeros.
        video_id = encoded.tobytes().rstrip(b"\0").decode(errors="replace")
        precision = f"{details['worst_average_precision'][row]:.3f}"
        rows.append((video_id, precision, ", ".join(labels), ", ".join(guesses[:_MAX_NAMES])))
    return rows


def _class_names(config: TrainConfig) -> list[str]:
    path = config.data.vocabulary
    # A checkpoint may have come here without it.
    is_there = path is not None and Path(path).is_file()
    count = config.data.num_classes
    vocabulary = Vocabulary.load(path) if is_there else Vocabulary.meant_by(config.data.features, count)
    return [vocabulary.name(class_id) or f"class {class_id}" for class_id in range(count)]

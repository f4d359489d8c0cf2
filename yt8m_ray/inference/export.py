"""Checkpoints -> a quantized ensemble bundle whose quality is known.

Lives here: the one call behind `jobs.export`, and the measurement before and after the weights are transformed.
"""

from __future__ import annotations

import copy
import datetime
import itertools
import logging
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from yt8m_ray import __version__
from yt8m_ray.checkpoint import load_model, read_manifest
from yt8m_ray.config.document import ConfigError
from yt8m_ray.config.export import ExportConfig, TransformConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.batch import make_batch
from yt8m_ray.data.dataset import expand_shards
from yt8m_ray.data.features import read_rows
from yt8m_ray.inference.bundle import BundleDocument, MemberEntry, Provenance, Quality, write_bundle
from yt8m_ray.inference.ensemble import Ensemble, check_agreement
from yt8m_ray.inference.predictor import load_vocabulary
from yt8m_ray.inference.quantize import channel_axes, dequantize_state, quantize_state
from yt8m_ray.metrics import build_metric
from yt8m_ray.models import Model
from yt8m_ray.schema import Batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Member:
    """One model before and after its weights were stored and read again."""

    checkpoint: str
    config: TrainConfig
    model: Model
    stored: dict[str, torch.Tensor]
    restored: Model


def export(config: ExportConfig) -> tuple[Path, BundleDocument]:
    """Writes the bundle that `config` describes; returns its folder and what was measured.

    Raises:
        ConfigError: the config cannot be carried out (`output` exists, no shards to measure on).
        ValueError, OSError: a checkpoint or a shard cannot be read, or members do not go together.
    """
    if Path(config.output).exists():
        raise ConfigError(f"output: {config.output} exists already; a bundle is never written over")
    members = [_load_member(member.checkpoint, config.transform) for member in config.members]
    check_agreement([member.checkpoint for member in members], [member.config.data for member in members])
    data, weights = members[0].config.data, config.weights()
    patterns = config.data.validation if config.data.validation is not None else data.validation
    shards = expand_shards(patterns, key="data.validation")
    models = [member.model for member in members]
    restored = [member.restored for member in members]
    gaps, num_videos = _measure(
        [*models, Ensemble(models, weights), *restored, Ensemble(restored, weights)],
        _batches(shards, members[0].config, config.data.batch_size),
    )
    before, after = gaps[: len(gaps) // 2], gaps[len(gaps) // 2 :]
    document = BundleDocument(
        level="video" if data.spec.is_video_level else "frame",
        features=dict(data.features),
        num_classes=data.num_classes,
        max_frames=data.max_frames,
        normalize=data.normalize,
        members=[
            MemberEntry(
                model=member.config.model.model_dump(mode="json"),
                weight=weight,
                checkpoint=member.checkpoint,
                mlflow_run_id=read_manifest(member.checkpoint, kind="checkpoint").get("mlflow_run_id"),
                gap_before=before[index],
                gap_after=after[index],
            )
            for index, (member, weight) in enumerate(zip(members, weights, strict=True))
        ],
        transform=config.transform,
        quality=Quality(split=shards, num_videos=num_videos, gap_before=before[-1], gap_after=after[-1]),
        provenance=Provenance(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            package_version=__version__,
            git_commit=_git_commit(),
        ),
    )
    vocabulary = load_vocabulary(data.vocabulary, data.num_classes)
    return write_bundle(config.output, document, [member.stored for member in members], vocabulary), document


def _load_member(checkpoint: str, transform: TransformConfig) -> _Member:
    model, config = load_model(checkpoint)
    stored = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    restored = model
    if transform.name == "int8":
        stored = quantize_state(stored, channel_axes(model), min_elements=transform.min_elements)
        restored = copy.deepcopy(model)
        restored.load_state_dict(dequantize_state(stored))
    return _Member(checkpoint, config, model, stored, restored)


def _batches(shards: Sequence[str], config: TrainConfig, batch_size: int) -> Iterator[Batch]:
    spec = config.data.spec
    for index, shard in enumerate(shards):
        logger.info("measuring on shard %d of %d: %s", index + 1, len(shards), shard)
        rows = (row for _, row in read_rows(shard, spec, verify_crc=config.data.verify_checksums))
        while part := list(itertools.islice(rows, batch_size)):
            yield make_batch(part, spec, normalize=config.data.normalize)


def _measure(models: Sequence[Model], batches: Iterator[Batch]) -> tuple[list[float], int]:
    """Returns GAP@20 of each model on the same videos, and their number."""
    metrics = [build_metric("gap") for _ in models]
    num_videos = num_labels = 0
    with torch.inference_mode():
        for batch in batches:
            assert batch.labels is not None
            num_videos += len(batch)
            num_labels += int(batch.labels.sum())
            for metric, model in zip(metrics, models, strict=True):
                scores = torch.sigmoid(model.eval()(batch.frames, batch.num_frames))
                metric.update(scores, batch.labels)
    if not num_labels:
        raise ValueError(f"data.validation: none of its {num_videos} videos has a label, so GAP cannot be measured")
    return [metric.compute() for metric in metrics], num_videos


def format_table(document: BundleDocument) -> str:
    """Returns the measured GAP of each member and of the ensemble as lines of text."""
    quality = document.quality
    assert quality is not None
    rows = [(entry.model["name"], entry.weight, entry.gap_before, entry.gap_after) for entry in document.members]
    rows.append(("ensemble", 1.0, quality.gap_before, quality.gap_after))
    header = f"{'model':<20} {'weight':>7} {'GAP float32':>12} {f'GAP {document.transform.name}':>12}"
    lines = [f"{name:<20} {weight:7.4f} {before:12.6f} {after:12.6f}" for name, weight, before, after in rows]
    return "\n".join([header, *lines, f"on {quality.num_videos} videos of {len(quality.split)} shards"])


def _git_commit() -> str | None:
    """Returns the commit of the working tree that this file belongs to, None where it was installed otherwise."""
    folder = Path(__file__).parent
    commands = (["ls-files", "--error-unmatch", Path(__file__).name], ["rev-parse", "HEAD"])
    output = ""
    for command in commands:
        try:
            done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        if done.returncode:
            return None
        output = done.stdout.strip()
    return output

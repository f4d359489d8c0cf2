"""The members of a bundle to be: checkpoints before and after their weights are transformed, measured side by side.

Lives here: loading, measuring and assembling, all without Ray. Does not live here: reading the shards (`export`).
"""

from __future__ import annotations

import copy
import datetime
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from yt8m_ray import __version__
from yt8m_ray.checkpoint import load_model, read_manifest
from yt8m_ray.config.export import ExportConfig, TransformConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.inference.bundle import BundleDocument, MemberEntry, Provenance, Quality, write_bundle
from yt8m_ray.inference.ensemble import Ensemble, check_agreement
from yt8m_ray.inference.predictor import load_vocabulary
from yt8m_ray.inference.quantize import channel_axes, dequantize_state, quantize_state, quantize_uniformly
from yt8m_ray.inference.weighting_report import WeightingReport
from yt8m_ray.metrics import Metric, build_metric
from yt8m_ray.models import Model
from yt8m_ray.schema import Batch


@dataclass(frozen=True)
class Member:
    """One model.

    Attributes:
        checkpoint: Where it came from.
        config: How it was trained.
        mlflow_run_id: The run that trained it, if it was tracked.
        model: With the weights as trained.
        stored: The weights as a bundle stores them.
        restored: The model with the stored weights read again; `model` itself where nothing is transformed.
    """

    checkpoint: str
    config: TrainConfig
    mlflow_run_id: str | None
    model: Model
    stored: dict[str, torch.Tensor]
    restored: Model


def load_members(config: ExportConfig) -> list[Member]:
    """Returns the members that `config` names.

    Raises:
        ValueError: a checkpoint cannot be read, or the members do not go together.
    """
    members = [_load_member(member.checkpoint, config.transform, member.ema) for member in config.members]
    check_agreement([member.checkpoint for member in members], [member.config.data for member in members])
    return members


def ensembles(config: ExportConfig, members: Sequence[Member]) -> tuple[Ensemble, Ensemble]:
    """Returns the ensemble of the members as trained and as stored."""
    before = Ensemble([member.model for member in members], config.weights())
    return before.eval(), Ensemble([member.restored for member in members], config.weights()).eval()


def stored_bytes(member: Member) -> int:
    """Returns the bytes of a member's weights as a bundle stores them."""
    return sum(tensor.numel() * tensor.element_size() for tensor in member.stored.values())


class QualityMeter:
    """GAP@20 of each member of an ensemble and of the whole; mergeable and picklable.

    Attributes:
        num_videos: Videos seen.
        num_labels: Their labels.
    """

    def __init__(self, num_members: int) -> None:
        self._metrics: list[Metric] = [build_metric("gap") for _ in range(num_members + 1)]
        self.num_videos = 0
        self.num_labels = 0

    def update(self, ensemble: Ensemble, batch: Batch) -> None:
        """Adds a labelled batch."""
        assert batch.labels is not None
        with torch.inference_mode():
            member_logits = [member(batch.frames, batch.num_frames) for member in ensemble.members]
            for metric, logits in zip(self._metrics, [*member_logits, ensemble.combine(member_logits)], strict=True):
                metric.update(torch.sigmoid(logits.float()), batch.labels)
        self.num_videos += len(batch)
        self.num_labels += int(batch.labels.sum())

    def merge(self, other: QualityMeter) -> None:
        """Adds everything that `other` has seen."""
        for metric, part in zip(self._metrics, other._metrics, strict=True):
            metric.merge(part)
        self.num_videos += other.num_videos
        self.num_labels += other.num_labels

    def compute(self) -> list[float]:
        """Returns GAP of each member, then of the ensemble.

        Raises:
            ValueError: no video had a label.
        """
        if not self.num_labels:
            raise ValueError(f"data.validation: none of its {self.num_videos} videos has a label to measure GAP with")
        return [metric.compute() for metric in self._metrics]


def assemble(
    config: ExportConfig,
    members: Sequence[Member],
    *,
    before: QualityMeter,
    after: QualityMeter,
    split: Sequence[str],
    weighting: WeightingReport | None = None,
) -> tuple[Path, BundleDocument]:
    """Writes the bundle of `members` and returns its folder and document.

    Args:
        config: The export, with the members that were chosen and their weights.
        members: From `load_members`.
        before: What was measured of the weights as trained.
        after: What was measured of the weights as stored.
        split: The shards that both were measured on.
        weighting: How members and weights were chosen, if they were.
    """
    data = members[0].config.data
    gaps_before, gaps_after = before.compute(), after.compute()
    document = BundleDocument(
        level="video" if data.spec.is_video_level else "frame",
        features=dict(data.features),
        num_classes=data.num_classes,
        max_frames=data.max_frames,
        normalize=data.normalize,
        members=_entries(members, config.weights(), gaps_before[:-1], gaps_after[:-1]),
        transform=config.transform,
        quality=Quality(
            split=list(split), num_videos=before.num_videos, gap_before=gaps_before[-1], gap_after=gaps_after[-1]
        ),
        weighting=weighting,
        provenance=Provenance(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            package_version=__version__,
            git_commit=_git_commit(),
        ),
    )
    vocabulary = load_vocabulary(data.vocabulary, data.num_classes)
    return write_bundle(config.output, document, [member.stored for member in members], vocabulary), document


def _entries(
    members: Sequence[Member], weights: Sequence[float], gaps_before: Sequence[float], gaps_after: Sequence[float]
) -> list[MemberEntry]:
    return [
        MemberEntry(
            model=member.config.model.model_dump(mode="json"),
            weight=weight,
            checkpoint=member.checkpoint,
            mlflow_run_id=member.mlflow_run_id,
            gap_before=gap_before,
            gap_after=gap_after,
        )
        for member, weight, gap_before, gap_after in zip(members, weights, gaps_before, gaps_after, strict=True)
    ]


def _load_member(checkpoint: str, transform: TransformConfig, ema: bool | None) -> Member:
    model, config = load_model(checkpoint, ema=ema)
    run_id = read_manifest(checkpoint, kind="checkpoint").get("mlflow_run_id")
    stored, restored = dict(model.state_dict()), model
    if transform.name == "int8":
        stored = quantize_state(stored, channel_axes(model), min_elements=transform.min_elements)
    elif transform.name == "uniform":
        stored = quantize_uniformly(stored, min_elements=transform.min_elements)
    if transform.name != "none":
        restored = copy.deepcopy(model)
        restored.load_state_dict(dequantize_state(stored))
    return Member(checkpoint, config, None if run_id is None else str(run_id), model, stored, restored)


def _git_commit() -> str | None:
    """Returns the commit of the working tree that this file belongs to, None where it was installed otherwise."""
    path = Path(__file__)
    output = ""
    for arguments in (["ls-files", "--error-unmatch", path.name], ["rev-parse", "HEAD"]):
        try:
            done = subprocess.run(["git", "-C", path.parent, *arguments], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        if done.returncode:
            return None
        output = done.stdout.strip()
    return output

"""The members of a bundle to be: checkpoints before and after their weights are transformed, measured side by side."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from yt8m_ray import __version__
from yt8m_ray.artifacts.checkpoint import load_model
from yt8m_ray.artifacts.folder_manifest import folder_version, read_manifest
from yt8m_ray.config.data import DataConfig
from yt8m_ray.config.export import ExportConfig
from yt8m_ray.config.quantization import TransformConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.inference.bundle.choice_reports import TransformReport, WeightingReport
from yt8m_ray.inference.bundle.document import (
    BundleDocument,
    DataManifest,
    MemberEntry,
    Provenance,
    Quality,
    licence_of,
)
from yt8m_ray.inference.bundle.folder import write_bundle
from yt8m_ray.inference.bundle.golden_answers import NUM_INPUTS
from yt8m_ray.inference.bundle.input_schema import InputSchema
from yt8m_ray.inference.predictor import load_vocabulary
from yt8m_ray.inference.quantization.quantize import channel_axes, quantize_state
from yt8m_ray.inference.quantization.restore import restore_model
from yt8m_ray.metrics import Metric, build_metric
from yt8m_ray.models import Model
from yt8m_ray.models.ensemble import Ensemble
from yt8m_ray.schema import Batch
from yt8m_ray.topk import check_scores


@dataclass(frozen=True)
class Member:
    """One model.

    Attributes:
        checkpoint: Where it came from.
        config: How it was trained.
        transform: How it is stored.
        mlflow_run_id: The run that trained it, if it was tracked.
        model: With the weights as trained.
        stored: The weights as a bundle stores them.
        restored: The model that computes with the stored weights, as a bundle's does.
    """

    checkpoint: str
    config: TrainConfig
    transform: TransformConfig
    mlflow_run_id: str | None
    model: Model
    stored: dict[str, torch.Tensor]
    restored: Model


def load_members(config: ExportConfig, *, device: str = "cpu") -> list[Member]:
    """Returns the members that `config` names, their models on `device`.

    Raises:
        ValueError: a checkpoint cannot be read, or the members do not go together.
    """
    members = [load_member(config, index, device=device) for index in range(len(config.members))]
    check_agreement([member.checkpoint for member in members], [member.config.data for member in members])
    return members


def load_member(config: ExportConfig, index: int, *, device: str = "cpu") -> Member:
    """Returns one of the members that `config` names, its models on `device`.

    Raises:
        ValueError: its checkpoint cannot be read, or its weights not be stored in that way.
    """
    asked = config.members[index]
    transform = config.transform_of(asked)
    model, trained = load_model(asked.checkpoint, ema=asked.ema)
    run_id = read_manifest(asked.checkpoint, kind="checkpoint").get("mlflow_run_id")
    stored = quantize_state(model.state_dict(), channel_axes(model), transform)
    restored = restore_model(
        trained.model,
        dict(stored),
        feature_sizes=model.feature_sizes,
        num_classes=model.num_classes,
        activations=transform.activations,
        device=device,
    )
    return Member(
        checkpoint=asked.checkpoint,
        config=trained,
        transform=transform,
        mlflow_run_id=None if run_id is None else str(run_id),
        model=model.to(device),
        stored=stored,
        restored=restored,
    )


def ensembles(config: ExportConfig, members: Sequence[Member]) -> tuple[Ensemble, Ensemble]:
    """Returns the ensemble of the members as trained and as stored."""
    before = Ensemble([member.model for member in members], config.weights())
    return before.eval(), Ensemble([member.restored for member in members], config.weights()).eval()


def member_bytes(member: Member) -> int:
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
            for logits in member_logits:
                check_scores(logits, batch.video_ids)
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
    trials: TransformReport | None = None,
) -> tuple[Path, BundleDocument]:
    """Writes the bundle of `members` and returns its folder and document.

    Args:
        config: The export, with the members that were chosen and their weights.
        members: From `load_members`.
        before: What was measured of the weights as trained.
        after: What was measured of the weights as stored.
        split: The shards that both were measured on.
        weighting: How members and weights were chosen, if they were.
        trials: How their transforms were chosen, if they were.
    """
    data = members[0].config.data
    gaps_before, gaps_after = before.compute(), after.compute()
    vocabulary = load_vocabulary(data.vocabulary, data.spec)
    document = BundleDocument(
        input=InputSchema.of(data.spec, data.normalize),
        num_classes=data.num_classes,
        members=_entries(members, config.weights(), gaps_before[:-1], gaps_after[:-1]),
        transform=config.transform,
        quality=Quality(
            split=list(split), num_videos=before.num_videos, gap_before=gaps_before[-1], gap_after=gaps_after[-1]
        ),
        weighting=weighting,
        trials=trials,
        licence=licence_of(config.licence, vocabulary),
        num_golden_inputs=NUM_INPUTS,
        provenance=Provenance(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            package_version=__version__,
            git_commit=_git_commit(),
        ),
    )
    return write_bundle(config.output, document, [member.stored for member in members], vocabulary), document


def _entries(
    members: Sequence[Member], weights: Sequence[float], gaps_before: Sequence[float], gaps_after: Sequence[float]
) -> list[MemberEntry]:
    return [
        MemberEntry(
            model=member.config.model.model_dump(mode="json"),
            weight=weight,
            transform=member.transform.name,
            checkpoint=member.checkpoint,
            checkpoint_version=folder_version(member.checkpoint),
            mlflow_run_id=member.mlflow_run_id,
            data_manifest=_data_manifest(member.config.data.manifest),
            gap_before=gap_before,
            gap_after=gap_after,
            float32_bytes=sum(tensor.nbytes for tensor in member.model.state_dict().values()),
            stored_bytes=member_bytes(member),
        )
        for member, weight, gap_before, gap_after in zip(members, weights, gaps_before, gaps_after, strict=True)
    ]


def _data_manifest(path: str | None) -> DataManifest | None:
    if path is None:
        return None
    file = Path(path)
    return DataManifest(path=path, sha256=hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None)


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


def check_agreement(names: Sequence[str], data: Sequence[DataConfig]) -> None:
    """Checks that all members read the same input and answer for the same classes.

    Raises:
        ValueError: names the first member that differs from the first one, and in what.
    """
    for name, config in zip(names[1:], data[1:], strict=True):
        for key in ("features", "num_classes", "max_frames", "normalize"):
            expected, found = getattr(data[0], key), getattr(config, key)
            # Two dicts are equal in any order, but features are concatenated in theirs.
            if expected != found or (key == "features" and list(expected) != list(found)):
                raise ValueError(
                    f"{name}: data.{key} is {found}, but {names[0]} has {expected}; all members read one input"
                )


def check_vocabularies(names: Sequence[str], vocabularies: Sequence[Vocabulary]) -> None:
    """Checks that a class id means one class to all members, as far as their vocabularies tell.

    Raises:
        ValueError: names two members that differ, and the first class that they differ in.
    """
    for (name, one), (other_name, other) in itertools.combinations(zip(names, vocabularies, strict=True), 2):
        class_id = one.first_difference(other)
        if class_id is not None:
            raise ValueError(
                f"{other_name}: class {class_id} is {other.name(class_id)!r} in its data.vocabulary, but "
                f"{one.name(class_id)!r} in that of {name}; all members answer for one vocabulary"
            )

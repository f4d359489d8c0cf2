"""The members of a future bundle: checkpoints before and after their weights are transformed, measured side by side."""

from __future__ import annotations

import datetime
import functools
import hashlib
import itertools
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from yt8m_ray import __version__
from yt8m_ray.artifacts.checkpoint import load_checkpoint
from yt8m_ray.artifacts.folder_manifest import folder_version
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
from yt8m_ray.models import Model, build_model_for_weights
from yt8m_ray.models.ensemble import Ensemble
from yt8m_ray.registry import ComponentConfig
from yt8m_ray.schema import Batch
from yt8m_ray.topk import check_scores


@dataclass(frozen=True)
class StoredModel:
    """The weights of a model as a bundle stores them, and what else it takes to compute with them; picklable."""

    config: ComponentConfig
    tensors: dict[str, torch.Tensor]
    feature_sizes: Sequence[int]
    num_classes: int
    activations: str

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def restore(self, device: str = "cpu") -> Model:
        """Returns the model that computes with the stored weights, as a bundle's does."""
        sizes, num_classes = self.feature_sizes, self.num_classes
        model = build_model_for_weights(self.config, feature_sizes=sizes, num_classes=num_classes)
        return restore_model(model, dict(self.tensors), activations=self.activations, device=device)

    # Pickle copies a tensor of torch several times; arrays of bytes go into Ray's store, and out of it, as they are.
    def __getstate__(self) -> dict[str, Any]:
        parts = self.tensors.items()
        arrays = {name: (part.reshape(-1).view(torch.uint8).numpy(), part.dtype, part.shape) for name, part in parts}
        return {**vars(self), "tensors": arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        parts = state["tensors"].items()
        # A copy: torch does not know memory that cannot be written to.
        tensors = {name: torch.from_numpy(part.copy()).view(dtype).view(shape) for name, (part, dtype, shape) in parts}
        vars(self).update(state, tensors=tensors)


@dataclass(frozen=True)
class Member:
    """One model, read from its checkpoint once: as trained, on the CPU, and how it is to be stored."""

    checkpoint: str
    config: TrainConfig
    transform: TransformConfig
    mlflow_run_id: str | None
    model: Model

    @functools.cached_property
    def stored(self) -> StoredModel:
        """Its weights as a bundle stores them; ValueError where they cannot be stored in that way."""
        model = self.model
        tensors = quantize_state(model.state_dict(), channel_axes(model), self.transform)
        sizes, num_classes = model.feature_sizes, model.num_classes
        return StoredModel(self.config.model, tensors, sizes, num_classes, self.transform.activations)


def load_members(config: ExportConfig) -> list[Member]:
    """Returns the members that `config` names; ValueError where one cannot be read, or they do not go together."""
    members = []
    for asked in config.members:
        model, trained, manifest = load_checkpoint(asked.checkpoint, ema=asked.ema)
        run_id = None if manifest.get("mlflow_run_id") is None else str(manifest["mlflow_run_id"])
        members.append(Member(asked.checkpoint, trained, config.transform_of(asked), run_id, model))
    check_agreement([member.checkpoint for member in members], [member.config.data for member in members])
    return members


class QualityMeter:
    """GAP@20 of each member of an ensemble and of the whole, of the videos seen so far; mergeable and picklable."""

    def __init__(self, num_members: int) -> None:
        self._metrics: list[Metric] = [build_metric("gap") for _ in range(num_members + 1)]
        self.num_videos = self.num_labels = 0

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
        """Returns GAP of each member, then of the ensemble; ValueError where no video had a label."""
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
    """Writes the bundle of `members`, those that `config` names, and returns its folder and document.

    `before` is of the weights as trained, `after` of those as stored, both measured on the shards of `split`.
    """
    data = members[0].config.data
    (*gaps_before, gap_before), (*gaps_after, gap_after) = before.compute(), after.compute()
    measured = zip(members, config.weights(), gaps_before, gaps_after, strict=True)
    vocabulary = load_vocabulary(data.vocabulary, data.spec)
    document = BundleDocument(
        input=InputSchema.of(data.spec, data.normalize),
        num_classes=data.num_classes,
        members=[
            MemberEntry(
                model=member.config.model.model_dump(mode="json"),
                weight=weight,
                transform=member.transform.name,
                checkpoint=member.checkpoint,
                checkpoint_version=folder_version(member.checkpoint),
                mlflow_run_id=member.mlflow_run_id,
                data_manifest=_data_manifest(member.config.data.manifest),
                gap_before=member_before,
                gap_after=member_after,
                float32_bytes=sum(tensor.nbytes for tensor in member.model.state_dict().values()),
                stored_bytes=member.stored.num_bytes,
            )
            for member, weight, member_before, member_after in measured
        ],
        transform=config.transform,
        quality=Quality(split=list(split), num_videos=before.num_videos, gap_before=gap_before, gap_after=gap_after),
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
    return write_bundle(config.output, document, [member.stored.tensors for member in members], vocabulary), document


def _data_manifest(path: str | None) -> DataManifest | None:
    if path is None:
        return None
    file = Path(path)
    return DataManifest(path=path, sha256=hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None)


def _git_commit() -> str | None:
    """Returns the commit of the working tree that this file belongs to, None where it was installed otherwise."""
    path, output = Path(__file__), ""
    try:
        # git also answers for a package that is installed below somebody's repository, without being one of its files.
        for arguments in (["ls-files", "--error-unmatch", path.name], ["rev-parse", "HEAD"]):
            command = ["git", "-C", str(path.parent), *arguments]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git, or no file of a repository
        return None
    return output


def check_agreement(names: Sequence[str], data: Sequence[DataConfig]) -> None:
    """Checks that all members read one input and answer for the same classes; ValueError names who differs in what."""
    for name, config in zip(names[1:], data[1:], strict=True):
        for key in ("features", "num_classes", "max_frames", "normalize"):
            expected, found = getattr(data[0], key), getattr(config, key)
            # Two dicts are equal in any order, but features are concatenated in theirs.
            if expected != found or (key == "features" and list(expected) != list(found)):
                raise ValueError(
                    f"{name}: data.{key} is {found}, but {names[0]} has {expected}; all members read one input"
                )


def check_vocabularies(names: Sequence[str], vocabularies: Sequence[Vocabulary]) -> None:
    """Checks that a class id means one class to all members; ValueError names two that differ, and in which class."""
    for (name, one), (other_name, other) in itertools.combinations(zip(names, vocabularies, strict=True), 2):
        class_id = one.first_difference(other)
        if class_id is not None:
            raise ValueError(
                f"{other_name}: class {class_id} is {other.name(class_id)!r} in its data.vocabulary, but "
                f"{one.name(class_id)!r} in that of {name}; all members answer for one vocabulary"
            )

"""The bundle, the one folder that is served: models, weights, vocabulary, and what was measured of them.

    bundle.yaml                    BundleDocument
    members/<n>/model.safetensors  weights of one member, quantized or not
    vocabulary.csv
    manifest.json                  size and SHA-256 of each file, written last

Lives here: writing and loading the folder; nothing in it is executed or unpickled. Does not live here: making the
weights smaller (`quantize`) and measuring them (`members`). It is built aside and renamed, so that it is always whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import pydantic
import torch
from safetensors.torch import save_file

from yt8m_ray.checkpoint import MANIFEST_FILE, MODEL_FILE, CheckpointError, read_manifest, read_tensors, write_manifest
from yt8m_ray.config.document import parse_yaml, to_yaml, validate
from yt8m_ray.config.export import TransformConfig
from yt8m_ray.data.features import FeatureSpec
from yt8m_ray.data.normalize import Normalization
from yt8m_ray.data.vocabulary import Vocabulary
from yt8m_ray.inference.ensemble import Ensemble
from yt8m_ray.inference.quantize import dequantize_state
from yt8m_ray.inference.weighting_report import WeightingReport, format_weighting
from yt8m_ray.models import Model, build_model
from yt8m_ray.registry import Config

FORMAT_VERSION = 1
DOCUMENT_FILE = "bundle.yaml"
VOCABULARY_FILE = "vocabulary.csv"


class MemberEntry(Config):
    """One model of a bundle.

    Attributes:
        model: The model's config, as its checkpoint had it.
        weight: Its share of the averaged probabilities.
        checkpoint: The folder that it came from, for the record; nothing reads it.
        mlflow_run_id: The run that trained it, if it was tracked.
        gap_before: GAP alone, with the weights as trained.
        gap_after: GAP alone, with the weights as stored here.
    """

    model: dict[str, Any]
    weight: pydantic.PositiveFloat
    checkpoint: str
    mlflow_run_id: str | None = None
    gap_before: float
    gap_after: float


class Quality(Config):
    """GAP@20 of the whole bundle before and after its weights were transformed, and what it was measured on."""

    split: list[str]
    num_videos: int
    gap_before: float
    gap_after: float


class Provenance(Config):
    """Where a bundle comes from."""

    created: str
    package_version: str
    git_commit: str | None = None


class BundleDocument(Config):
    """bundle.yaml.

    Attributes:
        level: Whether clips are frames (`frame`) or means over frames (`video`).
        features: Sizes by name, in the order in which they are concatenated.
        weighting: How the members and their weights were chosen; null where they were given.
    """

    format_version: Literal[1] = 1
    level: Literal["frame", "video"]
    features: dict[str, int]
    num_classes: int
    max_frames: int
    normalize: Normalization
    members: list[MemberEntry] = pydantic.Field(min_length=1)
    transform: TransformConfig
    quality: Quality
    weighting: WeightingReport | None = None
    provenance: Provenance

    @property
    def spec(self) -> FeatureSpec:
        """Returns what the members read."""
        return FeatureSpec(self.features, num_classes=self.num_classes, max_frames=self.max_frames)


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: the model is in eval mode, with float32 weights."""

    document: BundleDocument
    model: Model
    vocabulary: Vocabulary
    version: str


def format_table(document: BundleDocument) -> str:
    """Returns the measured GAP of each member and of the ensemble, and of how they were chosen, as lines of text."""
    quality = document.quality
    rows = [(entry.model["name"], entry.weight, entry.gap_before, entry.gap_after) for entry in document.members]
    rows.append(("ensemble", 1.0, quality.gap_before, quality.gap_after))
    header = f"{'model':<20} {'weight':>7} {'GAP float32':>12} {f'GAP {document.transform.name}':>12}"
    lines = [f"{name:<20} {weight:7.4f} {before:12.6f} {after:12.6f}" for name, weight, before, after in rows]
    lines.append(f"on {quality.num_videos} videos of {len(quality.split)} shards")
    if document.weighting is not None:
        lines += format_weighting(document.weighting)
    return "\n".join([header, *lines])


def write_bundle(
    output: str | Path,
    document: BundleDocument,
    states: Sequence[Mapping[str, torch.Tensor]],
    vocabulary: Vocabulary,
) -> Path:
    """Writes a bundle of one state dict a member and returns its folder.

    Raises:
        FileExistsError: `output` exists; a bundle is never written over.
    """
    output = Path(output)
    if output.exists():
        raise FileExistsError(f"{output}: exists already; a bundle is never written over, choose another output")
    aside = output.with_name(output.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        for index, state in enumerate(states):
            path = aside / _weights_name(index)
            path.parent.mkdir(parents=True)
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
        vocabulary.save(str(aside / VOCABULARY_FILE))
        (aside / DOCUMENT_FILE).write_text(to_yaml(document), encoding="utf-8")
        write_manifest(aside, {"kind": "bundle"})
        os.rename(aside, output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return output


def load_bundle(path: str | Path) -> Bundle:
    """Returns the bundle in a folder, after its files were compared with the manifest.

    Raises:
        ValueError: there is no bundle, a file is missing, changed or malformed, or the format version is unknown.
    """
    path = Path(path)
    document = read_document(path)
    members = [
        _load_member(entry, document, path / _weights_name(index)) for index, entry in enumerate(document.members)
    ]
    return Bundle(
        document=document,
        model=Ensemble(members, [entry.weight for entry in document.members]).eval(),
        vocabulary=Vocabulary.load(path / VOCABULARY_FILE, num_classes=document.num_classes),
        version=folder_version(path),
    )


def read_document(folder: str | Path) -> BundleDocument:
    """Returns what a bundle says of itself, after its files were compared with the manifest.

    Raises:
        ValueError: as `load_bundle`.
    """
    folder = Path(folder)
    files = cast(dict[str, Any], read_manifest(folder, kind="bundle")["files"])
    document = _parse_document(folder / DOCUMENT_FILE)
    needed = {DOCUMENT_FILE, VOCABULARY_FILE, *map(_weights_name, range(len(document.members)))}
    if needed - files.keys():
        raise CheckpointError(f"{folder / MANIFEST_FILE}: expected the files {sorted(needed)}, found {sorted(files)}")
    return document


def folder_version(path: str | Path) -> str:
    """Returns a short name of the exact content of a bundle or checkpoint: a hash of its manifest."""
    return hashlib.sha256((Path(path) / MANIFEST_FILE).read_bytes()).hexdigest()[:12]


def _weights_name(index: int) -> str:
    return f"members/{index}/{MODEL_FILE}"


def _parse_document(path: Path) -> BundleDocument:
    tree = parse_yaml(path.read_text(encoding="utf-8"), where=str(path))
    found = tree.get("format_version")
    if found != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version {found!r} found, this program reads {FORMAT_VERSION}; export the bundle again"
        )
    return validate(tree, BundleDocument, where=str(path))


def _load_member(entry: MemberEntry, document: BundleDocument, path: Path) -> Model:
    sizes = list(document.features.values())
    model = build_model(entry.model, feature_sizes=sizes, num_classes=document.num_classes)
    state = dequantize_state(read_tensors(path))
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: weights do not fit the model: {' '.join(str(error).split())}") from None
    return model

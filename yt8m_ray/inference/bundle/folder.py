"""The bundle, the one folder or tar that is served: models, weights, vocabulary, and what was measured of them.

bundle.yaml                    BundleDocument
members/<n>/model.safetensors  weights of one member, quantized or not
vocabulary.csv
golden.safetensors             some videos and their answers: what the bundle checks itself with
manifest.json                  size and SHA-256 of each file, written last
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydantic
import torch
from safetensors.torch import save_file

from yt8m_ray.artifacts.archive import is_archive, open_folder, write_archive
from yt8m_ray.artifacts.checkpoint import check_finite, check_fit, read_tensors
from yt8m_ray.artifacts.folder_manifest import (
    BUNDLE_FILE,
    CheckpointError,
    folder_aside,
    folder_version,
    write_manifest,
)
from yt8m_ray.artifacts.tensor_file import read_tensor_entries
from yt8m_ray.config.document import to_yaml
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.inference.bundle.document import (
    GOLDEN_FILE,
    VOCABULARY_FILE,
    BundleDocument,
    MemberEntry,
    read_document,
    weights_name,
)
from yt8m_ray.inference.bundle.golden_answers import GoldenAnswers, answer, make_inputs
from yt8m_ray.inference.quantization.quantize import stored_faults
from yt8m_ray.inference.quantization.restore import restore_model
from yt8m_ray.models import MODELS, Model, build_model_for_weights
from yt8m_ray.models.ensemble import Ensemble
from yt8m_ray.registry import first_fault


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: the model is in eval mode and multiplies integers where it can; version 1 has no `golden`."""

    document: BundleDocument
    model: Model
    vocabulary: Vocabulary
    version: str
    golden: GoldenAnswers | None


def write_bundle(
    output: str | Path, document: BundleDocument, states: Sequence[Mapping[str, torch.Tensor]], vocabulary: Vocabulary
) -> Path:
    """Writes a bundle of one state dict a member and returns `output`: a folder, or a file where it ends in `.tar`."""
    output = Path(output)
    if output.exists():
        raise FileExistsError(f"{output}: exists already; a bundle is never written over, choose another output")
    # Renamed at the end: a bundle is always whole.
    with folder_aside(output) as aside:
        for index, state in enumerate(states):
            path = aside / weights_name(index)
            path.parent.mkdir(parents=True)
            # safetensors refuses what is not contiguous, such as a transposed matrix.
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
        vocabulary.save(str(aside / VOCABULARY_FILE))
        (aside / BUNDLE_FILE).write_text(to_yaml(document), encoding="utf-8")
        if document.num_golden_inputs:
            # Answered by the model as it is loaded from here, with the rounding of its stored weights.
            videos = make_inputs(document.spec, document.num_golden_inputs)
            answers = answer(_load_model(document, aside), videos, document.spec, document.input.normalize)
            answers.save(aside / GOLDEN_FILE)
        write_manifest(aside, {"kind": "bundle"})
        if is_archive(output):
            write_archive(aside, output)
        else:
            aside.rename(output)
    return output


def load_bundle(path: str | Path, *, device: str = "cpu") -> Bundle:
    """Returns the bundle in a folder or tar, its model on `device`.

    Raises:
        ValueError: there is no bundle, a file is missing, changed or malformed, or the format version is unknown.
        OSError: it cannot be read, or the cache for tars not be written.
    """
    folder = open_folder(path)
    document = read_document(folder)
    return Bundle(
        document=document,
        model=_load_model(document, folder, device),
        vocabulary=Vocabulary.load(folder / VOCABULARY_FILE, num_classes=document.num_classes),
        version=folder_version(folder),
        golden=GoldenAnswers.load(folder / GOLDEN_FILE, document.spec) if document.num_golden_inputs else None,
    )


def _load_model(document: BundleDocument, folder: Path, device: str = "cpu") -> Model:
    entries = document.members
    paths = [folder / weights_name(index) for index in range(len(entries))]
    members = [_load_member(entry, document, path, device) for entry, path in zip(entries, paths, strict=True)]
    try:
        return Ensemble(members, [entry.weight for entry in entries]).to(device).eval()
    except ValueError as error:
        raise CheckpointError(f"{folder / BUNDLE_FILE}: members: {error}") from None


def _load_member(entry: MemberEntry, document: BundleDocument, path: Path, device: str) -> Model:
    sizes = list(document.input.sizes.values())
    try:
        config = MODELS.parse(entry.model)
        model = build_model_for_weights(config, feature_sizes=sizes, num_classes=document.num_classes)
        wrong = stored_faults(model.state_dict(), read_tensor_entries(path))
    except CheckpointError:
        raise
    except ValueError as error:
        fault = first_fault(error) if isinstance(error, pydantic.ValidationError) else error
        raise CheckpointError(f"{path}: its model in {BUNDLE_FILE}: {fault}") from None
    # The head of the file decides before its tensors, which may be of any size, are read.
    check_fit(wrong, where=str(path))
    stored = read_tensors(path)
    check_finite(stored, where=str(path))
    return restore_model(model, stored, activations=document.transform.activations, device=device)

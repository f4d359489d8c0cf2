"""A bundle as a page of text or one JSON document, from its document and the heads of its weights. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from yt8m_ray.artifacts.archive import open_folder
from yt8m_ray.artifacts.folder_manifest import CONFIG_FILE, NoSuchFolderError, folder_version
from yt8m_ray.artifacts.tensor_file import TensorEntry, read_tensor_entries
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.bundle.choice_reports import format_trials, format_weighting
from yt8m_ray.inference.bundle.document import (
    DOCUMENT_FILE,
    FORMAT_VERSION,
    VOCABULARY_FILE,
    BundleDocument,
    MemberEntry,
    read_document,
    weights_name,
)

_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Description:
    """What can be said of a bundle without loading it.

    Attributes:
        path: As it was asked for.
        version: The short hash of its contents.
        document: What it says of itself.
        tensors: Of each member, in the order of their names.
    """

    path: str
    version: str
    document: BundleDocument
    tensors: list[list[TensorEntry]]


def describe(path: str | Path) -> Description:
    """Returns the description of a bundle whose files are intact.

    Args:
        path: Its folder or tar, here or in an object store.

    Raises:
        ConfigError: it is a checkpoint, or nothing that this program knows.
        ValueError, OSError: it is damaged, of an unknown version, or cannot be read.
    """
    folder = open_folder(path)
    if not (folder / DOCUMENT_FILE).is_file():
        if (folder / CONFIG_FILE).is_file():
            raise ConfigError(
                f"{path}: expected a bundle, found a checkpoint; jobs.export makes a bundle of checkpoints"
            )
        raise NoSuchFolderError(f"{path}: expected a bundle's folder (has {DOCUMENT_FILE}) or tar")
    document = read_document(folder)
    tensors = [read_tensor_entries(folder / weights_name(index)) for index in range(len(document.members))]
    return Description(str(path), folder_version(folder), document, tensors)


def format_table(document: BundleDocument) -> str:
    """Returns the measured GAP and the size of each member and of the ensemble, and how they were chosen, as text."""
    sections = [_table(document), *(lines for _, lines in _choices(document))]
    return "\n\n".join("\n".join(lines) for lines in sections)


def to_text(description: Description, *, with_tensors: bool = False) -> str:
    """Returns the page."""
    document = description.document
    sections = [
        _head(description),
        [*_table(document), *_shards(document.quality.split)],
        *([lines[0], *_shards(shards), *lines[1:]] for shards, lines in _choices(document)),
        _input(document),
        _licence(document),
        [line for index, entry in enumerate(document.members) for line in _member(index, entry)],
    ]
    if with_tensors:
        sections.append(list(_tensors(description.tensors)))
    return "\n\n".join("\n".join(section) for section in sections)


def to_json(description: Description, *, with_tensors: bool = False) -> str:
    """Returns one JSON document: the path, the version, the sizes, and bundle.yaml as a bundle of today has it."""
    document = description.document
    tree: dict[str, object] = {
        "path": description.path,
        "version": description.version,
        "float32_bytes": document.float32_bytes,
        "stored_bytes": document.stored_bytes,
        **document.model_dump(mode="json"),
        "migrated_from": document.migrated_from,
    }
    if with_tensors:
        tree["tensors"] = [[_facts(entry) for entry in member] for member in description.tensors]
    return json.dumps(tree, indent=2, ensure_ascii=False)


def _table(document: BundleDocument) -> list[str]:
    transforms, quality = document.transforms, document.quality
    is_mixed = len(set(transforms)) > 1
    stored_as = "stored" if is_mixed else transforms[0]
    header = ("model", "weight", "GAP float32", f"GAP {stored_as}", "MB float32", f"MB {stored_as}")
    rows = [
        (f"{index} {e.model['name']}", e.weight, e.gap_before, e.gap_after, e.float32_bytes, e.stored_bytes)
        for index, e in enumerate(document.members)
    ]
    rows.append(("ensemble", 1.0, quality.gap_before, quality.gap_after, document.float32_bytes, document.stored_bytes))
    lines = ["{:<20} {:>7} {:>12} {:>12} {:>11} {:>11}".format(*header)]
    for name, weight, before, after, trained, stored in rows:
        sizes = f"{_megabytes(trained):>11} {_megabytes(stored):>11}"
        lines.append(f"{name:<20} {weight:7.4f} {before:12.6f} {after:12.6f} {sizes}")
    if is_mixed:
        last = ["  stored as", *(f"  {name}" for name in transforms), ""]
        lines = [line + end for line, end in zip(lines, last, strict=True)]
    lines.append(f"on {quality.num_videos} videos of {len(quality.split)} shards")
    return lines


def _choices(document: BundleDocument) -> Iterator[tuple[list[str], list[str]]]:
    """Yields what was chosen by videos of which shards, as lines whose first one says on how many."""
    if document.trials is not None:
        yield document.trials.shards, format_trials(document.trials)
    if document.weighting is not None:
        yield document.weighting.shards, format_weighting(document.weighting)


def _head(description: Description) -> list[str]:
    document, provenance = description.document, description.document.provenance
    old = document.migrated_from
    version_found = f"{FORMAT_VERSION}" if old is None else f"{old}, read as {FORMAT_VERSION}"
    return [
        f"bundle {description.path}",
        f"version {description.version}, format {version_found}",
        f"written {provenance.created} by yt8m_ray {provenance.package_version}, commit "
        f"{provenance.git_commit or _UNKNOWN}",
        f"golden answers: {document.num_golden_inputs or 'none'}",
        f"transform: {_transform(document)}",
    ]


def _transform(document: BundleDocument) -> str:
    transform = document.transform
    text = ", ".join(dict.fromkeys(document.transforms))
    if transform.name == "smallest":
        text += f" (the smallest of {', '.join(transform.of)} that loses at most {transform.max_gap_loss:g} of GAP)"
    return f"{text}; activations {transform.activations}" if {"int8", "int4"} & set(document.transforms) else text


def _shards(split: Sequence[str]) -> list[str]:
    return [f"  {split[0]}", *([f"  ... {split[-1]}"] if len(split) > 1 else [])] if split else []


def _input(document: BundleDocument) -> list[str]:
    schema = document.input
    is_video_level = schema.level == "video"
    most, each = ("", "video") if is_video_level else (f" at most {schema.max_frames} frames,", "frame")
    lines = [f"input: {schema.level} level,{most} normalized here: {schema.normalize}"]
    lines += [f"  {feature.name:<12} {feature.size:5d} {feature.dtype} a {each}" for feature in schema.features]
    lines += [f"  {'video id':<12} {schema.video_id}", f"  {'num_frames':<12} {schema.num_frames}"]
    return [*lines, f"output: {document.num_classes} classes, named in {VOCABULARY_FILE}"]


def _licence(document: BundleDocument) -> list[str]:
    if document.licence is None:
        return [f"licence: {_UNKNOWN}"]
    return [
        f"licence of the weights: {document.licence.weights}",
        *(
            f"  {part.part}: {part.title}, {part.holder}, {part.licence}, {part.source}"
            for part in document.licence.attributions
        ),
    ]


def _member(index: int, entry: MemberEntry) -> list[str]:
    manifest = entry.data_manifest
    data = "none" if manifest is None else f"{manifest.path}, SHA-256 {manifest.sha256 or _UNKNOWN}"
    settings = ", ".join(f"{name} {value}" for name, value in entry.model.items() if name != "name")
    return [
        f"member {index}: {entry.model['name']}{f' ({settings})' if settings else ''}",
        f"  checkpoint     {entry.checkpoint}, version {entry.checkpoint_version or _UNKNOWN}",
        f"  MLflow run     {entry.mlflow_run_id or 'none'}",
        f"  data manifest  {data}",
    ]


def _facts(entry: TensorEntry) -> dict[str, object]:
    return asdict(entry) | {"num_bytes": entry.num_bytes}


def _tensors(members: Sequence[Sequence[TensorEntry]]) -> Iterator[str]:
    yield f"{'member':>6} {'bytes':>12} {'dtype':<6} tensor"
    for index, entries in enumerate(members):
        for entry in entries:
            yield f"{index:6d} {entry.num_bytes:12d} {entry.dtype:<6} {entry.name} {entry.shape}"


def _megabytes(num_bytes: int | None) -> str:
    return "-" if num_bytes is None else f"{num_bytes / 1e6:.2f}"

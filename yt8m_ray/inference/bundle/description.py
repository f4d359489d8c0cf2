"""A bundle as a page of text or one JSON document, from its document and the heads of its weights. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from yt8m_ray.artifacts.folder_manifest import folder_version
from yt8m_ray.artifacts.tensor_file import TensorEntry, read_tensor_entries
from yt8m_ray.inference.bundle.choice_reports import format_trials, format_weighting
from yt8m_ray.inference.bundle.document import (
    FORMAT_VERSION,
    VOCABULARY_FILE,
    BundleDocument,
    MemberEntry,
    open_bundle,
    weights_name,
)
from yt8m_ray.wording import counted

_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Description:
    """What is known of a bundle without loading it; `tensors` are those of each member, in the order of their names."""

    path: str
    version: str
    document: BundleDocument
    tensors: list[list[TensorEntry]]


def describe(path: str | Path) -> Description:
    """Returns the description of a bundle; errors as in `open_bundle`."""
    folder, document = open_bundle(path)
    tensors = [read_tensor_entries(folder / weights_name(index)) for index in range(len(document.members))]
    return Description(str(path), folder_version(folder), document, tensors)


def format_table(document: BundleDocument) -> str:
    """Returns the measured GAP and the size of each member and of the ensemble, and how they were chosen, as text."""
    return _joined([_table(document), *(lines for _, lines in _choices(document))])


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
        lines = [f"{'member':>6} {'bytes':>12} {'dtype':<6} tensor"]
        lines += [
            f"{index:6d} {entry.num_bytes:12d} {entry.dtype:<6} {entry.name} {entry.shape}"
            for index, entries in enumerate(description.tensors)
            for entry in entries
        ]
        sections.append(lines)
    return _joined(sections)


def to_json(description: Description, *, with_tensors: bool = False) -> str:
    """Returns one JSON document: the path, the version, the sizes, and bundle.yaml in its current format."""
    document = description.document
    tree: dict[str, object] = {
        "path": description.path,
        "version": description.version,
        "float32_bytes": document.float32_bytes,
        "stored_bytes": document.stored_bytes,
        **document.model_dump(mode="json"),
        # Left out of bundle.yaml itself, and so of the dump.
        "migrated_from": document.migrated_from,
    }
    if with_tensors:
        members = description.tensors
        tree["tensors"] = [[asdict(entry) | {"num_bytes": entry.num_bytes} for entry in member] for member in members]
    return json.dumps(tree, indent=2, ensure_ascii=False)


def _joined(sections: Sequence[Sequence[str]]) -> str:
    return "\n\n".join("\n".join(section) for section in sections)


def _table(document: BundleDocument) -> list[str]:
    transforms, quality = document.transforms, document.quality
    is_mixed = len(set(transforms)) > 1
    stored_as = "stored" if is_mixed else transforms[0]
    rows = [
        (f"{index} {e.model['name']}", e.weight, e.gap_before, e.gap_after, e.float32_bytes, e.stored_bytes)
        for index, e in enumerate(document.members)
    ]
    rows.append(("ensemble", 1.0, quality.gap_before, quality.gap_after, document.float32_bytes, document.stored_bytes))
    header = ("model", "weight", "GAP float32", f"GAP {stored_as}", "MB float32", f"MB {stored_as}")
    lines = ["{:<20} {:>7} {:>12} {:>12} {:>11} {:>11}".format(*header)]
    for name, weight, before, after, *sizes in rows:
        trained, stored = ("-" if size is None else f"{size / 1e6:.2f}" for size in sizes)
        lines.append(f"{name:<20} {weight:7.4f} {before:12.6f} {after:12.6f} {trained:>11} {stored:>11}")
    if is_mixed:
        last = ["  stored as", *(f"  {name}" for name in transforms), ""]
        lines = [line + end for line, end in zip(lines, last, strict=True)]
    return [*lines, f"on {counted(quality.num_videos, 'video')} of {counted(len(quality.split), 'shard')}"]


def _choices(document: BundleDocument) -> Iterator[tuple[list[str], list[str]]]:
    """Yields what was chosen by videos of which shards, as lines whose first one says on how many."""
    if document.trials is not None:
        yield document.trials.shards, format_trials(document.trials)
    if document.weighting is not None:
        yield document.weighting.shards, format_weighting(document.weighting)


def _head(description: Description) -> list[str]:
    document, provenance = description.document, description.document.provenance
    old, transform = document.migrated_from, document.transform
    stored_as = ", ".join(dict.fromkeys(document.transforms))
    if transform.name == "smallest":
        tried, limit = ", ".join(transform.of), transform.max_gap_loss
        stored_as += f" (the smallest of {tried} that loses at most {limit:g} of GAP)"
    if {"int8", "int4"} & set(document.transforms):
        stored_as += f"; activations {transform.activations}"
    return [
        f"bundle {description.path}",
        f"version {description.version}, format {'' if old is None else f'{old}, read as '}{FORMAT_VERSION}",
        f"written {provenance.created} by yt8m_ray {provenance.package_version}, commit "
        f"{provenance.git_commit or _UNKNOWN}",
        f"golden answers: {document.num_golden_inputs or 'none'}",
        f"transform: {stored_as}",
    ]


def _shards(split: Sequence[str]) -> list[str]:
    return [f"  {split[0]}", *([f"  ... {split[-1]}"] if len(split) > 1 else [])] if split else []


def _input(document: BundleDocument) -> list[str]:
    schema = document.input
    most, each = ("", "video") if schema.level == "video" else (f" at most {schema.max_frames} frames,", "frame")
    return [
        f"input: {schema.level} level,{most} normalized here: {schema.normalize}",
        *(f"  {feature.name:<12} {feature.size:5d} {feature.dtype} a {each}" for feature in schema.features),
        f"  {'video id':<12} {schema.video_id}",
        f"  {'num_frames':<12} {schema.num_frames}",
        f"output: {document.num_classes} classes, named in {VOCABULARY_FILE}",
    ]


def _licence(document: BundleDocument) -> list[str]:
    if document.licence is None:
        return [f"licence: {_UNKNOWN}"]
    parts = document.licence.attributions
    lines = [f"  {part.part}: {part.title}, {part.holder}, {part.licence}, {part.source}" for part in parts]
    return [f"licence of the weights: {document.licence.weights}", *lines]


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

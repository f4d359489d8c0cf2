"""bundle.yaml: its types, its versions, and how an old version is read. Imports no torch, which takes a second."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from yt8m_ray import local_files
from yt8m_ray.artifacts.folder_manifest import (
    BUNDLE_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    CheckpointError,
    files_of,
    read_manifest,
)
from yt8m_ray.config.document import parse_yaml, validate
from yt8m_ray.config.quantization import TransformConfig, TransformName
from yt8m_ray.data.format.features import FeatureSpec, Normalization
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.bundle.choice_reports import TransformReport, WeightingReport
from yt8m_ray.inference.bundle.input_schema import NUM_FRAMES, InputSchema, Level
from yt8m_ray.inference.locate import is_bundle, locate_model
from yt8m_ray.registry import Config, NonNegativeInt, PositiveInt
from yt8m_ray.schema import MOST_FRAMES

FORMAT_VERSION = 2
VOCABULARY_FILE = "vocabulary.csv"
GOLDEN_FILE = "golden.safetensors"


class DataManifest(Config):
    """The manifest of the shards that a member was trained on, and its SHA-256 if it was still there."""

    path: str
    sha256: str | None = None


class MemberEntry(Config):
    """One model of a bundle, and GAP and bytes alone; None is what an older version did not write down."""

    # The config of the model, as its checkpoint had it.
    model: dict[str, Any]
    # Its share of the averaged probabilities.
    weight: pydantic.PositiveFloat
    transform: TransformName | None = None
    # The folder that it came from, for the record: nothing reads it.
    checkpoint: str
    checkpoint_version: str | None = None
    mlflow_run_id: str | None = None
    data_manifest: DataManifest | None = None
    # With the weights as trained, then with those stored here.
    gap_before: float
    gap_after: float
    float32_bytes: NonNegativeInt | None = None
    stored_bytes: NonNegativeInt | None = None

    @pydantic.field_validator("model")
    @classmethod
    def _check_name(cls, model: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(model.get("name"), str):
            raise ValueError("expected the config of a model, with its name")
        return model


class Quality(Config):
    """GAP@20 of the whole bundle before and after its weights were transformed, and what it was measured on."""

    split: list[str]
    num_videos: int
    gap_before: float
    gap_after: float


class Attribution(Config):
    """A `part` of a bundle that is others' work: its title, holder, SPDX licence and source."""

    part: str
    title: str
    holder: str
    licence: str
    source: str


class Licence(Config):
    """Under which licences a bundle may be used: an SPDX expression for the weights, and what is others' work."""

    weights: str
    attributions: tuple[Attribution, ...] = ()


class Provenance(Config):
    """Where a bundle comes from."""

    created: str
    package_version: str
    git_commit: str | None = None


class BundleDocument(Config):
    """The content of bundle.yaml."""

    format_version: Literal[2] = 2
    input: InputSchema
    num_classes: PositiveInt
    members: list[MemberEntry] = Field(min_length=1)
    # As the export had it; each member says how it is stored itself.
    transform: TransformConfig
    quality: Quality
    # None where the members' weights, or their transforms, were given.
    weighting: WeightingReport | None = None
    trials: TransformReport | None = None
    # None where an older version did not write it down.
    licence: Licence | None = None
    provenance: Provenance
    # Videos whose answers are kept, so that a loaded bundle can check itself.
    num_golden_inputs: NonNegativeInt = 0
    # The version of the file, where it was an older one; never written.
    migrated_from: int | None = Field(default=None, exclude=True)

    @property
    def spec(self) -> FeatureSpec:
        """Returns what the members read."""
        return FeatureSpec(self.input.sizes, num_classes=self.num_classes, max_frames=self.input.max_frames)

    @property
    def transforms(self) -> list[str]:
        """How each member is stored; in older bundles, all alike."""
        return [entry.transform or self.transform.name for entry in self.members]

    @property
    def float32_bytes(self) -> int | None:
        """Tensors of all members as trained, None where an older version did not count them."""
        return _sum(entry.float32_bytes for entry in self.members)

    @property
    def stored_bytes(self) -> int | None:
        """Tensors of all members as stored, None where an older version did not count them."""
        return _sum(entry.stored_bytes for entry in self.members)


class _DocumentV1(Config):
    """bundle.yaml of version 1, which had the input's facts side by side; the other sections have only grown since."""

    format_version: Literal[1]
    level: Level
    features: dict[str, PositiveInt] = Field(min_length=1)
    num_classes: PositiveInt
    max_frames: Annotated[PositiveInt, Field(le=MOST_FRAMES)]
    normalize: Normalization
    members: list[dict[str, Any]]
    transform: dict[str, Any]
    quality: dict[str, Any]
    provenance: dict[str, Any]


def weights_name(index: int) -> str:
    """Returns the name of the file with the weights of a member, in its bundle's folder."""
    return f"members/{index}/{MODEL_FILE}"


def open_bundle(path: str | Path) -> tuple[Path, BundleDocument]:
    """Returns (folder, document) of a bundle's folder or tar, here or in an object store, whose files are intact.

    Raises:
        ConfigError: it is a checkpoint, or nothing that this program knows.
        ValueError, OSError: it is damaged, of an unknown version, or cannot be read.
    """
    folder = locate_model(path)
    if not is_bundle(folder):
        raise ConfigError(f"{path}: expected a bundle, found a checkpoint; yt8m export makes a bundle of checkpoints")
    return folder, read_document(folder)


def read_document(folder: str | Path) -> BundleDocument:
    """Returns the document of a bundle, after its files were compared with the manifest; errors as in `open_bundle`."""
    folder = Path(folder)
    files = files_of(read_manifest(folder, kind="bundle"))
    if BUNDLE_FILE not in files:
        raise CheckpointError(f"{folder / MANIFEST_FILE}: expected the file {BUNDLE_FILE}, found {sorted(files)}")
    document = parse_document(local_files.read_document(folder / BUNDLE_FILE), where=str(folder / BUNDLE_FILE))
    needed = {BUNDLE_FILE, VOCABULARY_FILE, *map(weights_name, range(len(document.members)))}
    if document.num_golden_inputs:
        needed.add(GOLDEN_FILE)
    if needed - files.keys():
        raise CheckpointError(f"{folder / MANIFEST_FILE}: expected the files {sorted(needed)}, found {sorted(files)}")
    return document


def parse_document(content: bytes, *, where: str) -> BundleDocument:
    """Returns the document in a file, migrated from version 1; ValueError: it is malformed, or of no known version."""
    try:
        tree = parse_yaml(content.decode(), where=where)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where}: not UTF-8 text: {error}") from None
    found = tree.get("format_version")
    # In Python `True` is 1; in a document it is no version.
    version = found if type(found) is int else None
    if version == 1:
        return _migrated(validate(tree, _DocumentV1, where=where), where)
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{where}: format_version {found!r} found, this program reads 1 and {FORMAT_VERSION}; take the yt8m_ray "
            "that wrote the bundle, or export it again"
        )
    return validate(tree, BundleDocument, where=where)


def _migrated(old: _DocumentV1, where: str) -> BundleDocument:
    tree = old.model_dump(mode="json")
    sizes, level = tree.pop("features"), tree.pop("level")
    dtype = "float32" if level == "video" else "uint8"
    tree["input"] = {
        "level": level,
        "features": [{"name": name, "dtype": dtype, "size": size} for name, size in sizes.items()],
        "max_frames": tree.pop("max_frames"),
        "normalize": tree.pop("normalize"),
        "num_frames": NUM_FRAMES[level],
    }
    # As its GAP was measured.
    tree["transform"]["activations"] = "float32"
    tree |= {"format_version": FORMAT_VERSION, "migrated_from": old.format_version}
    return validate(tree, BundleDocument, where=where)


def _sum(counts: Iterable[int | None]) -> int | None:
    known = list(counts)
    return None if None in known else sum(filter(None, known))


YOUTUBE_8M = Attribution(
    part=VOCABULARY_FILE,
    title="YouTube-8M vocabulary",
    holder="Google Inc.",
    licence="CC-BY-4.0",
    source="https://research.google.com/youtube8m/",
)


def licence_of(weights: str, vocabulary: Vocabulary) -> Licence:
    """Returns the licences of a bundle; names of classes that are the published ones are attributed."""
    published = Vocabulary.load()
    shared = range(min(len(published), len(vocabulary)))
    is_published = any(vocabulary.name(index) and vocabulary.name(index) == published.name(index) for index in shared)
    return Licence(weights=weights, attributions=(YOUTUBE_8M,) if is_published else ())

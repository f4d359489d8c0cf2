"""The model card: what a model is and how well it did, for anyone to read, without a path of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Literal

import pydantic
from pydantic import Field

from serve.model.hosted_model import HostedModel
from yt8m_ray.data.format.features import Normalization
from yt8m_ray.inference.bundle.document import BundleDocument, Licence, MemberEntry, Provenance, Quality


class Feature(pydantic.BaseModel):
    name: str
    size: int = Field(description="Values a frame, or of the mean over all frames")
    dtype: str


class CardQuality(pydantic.BaseModel):
    """GAP@20 of the whole model before and after its weights were transformed."""

    gap_before: float = Field(description="With the weights as they were trained")
    gap_after: float = Field(description="With the weights as they are served")
    num_videos: int
    shards: list[str] = Field(description="Names of the first and the last file of the split, in its order")
    num_shards: int


class CardMember(pydantic.BaseModel):
    name: str = Field(description="Of the architecture")
    options: dict[str, Any]
    weight: float = Field(description="Share of the averaged probabilities")
    gap_before: float | None
    gap_after: float | None
    float32_bytes: int | None
    stored_bytes: int | None
    checkpoint_version: str | None
    mlflow_run_id: str | None
    data_manifest_sha256: str | None


class CardTransform(pydantic.BaseModel):
    name: str = Field(description="How the weights are stored")
    activations: str = Field(description="What linear layers multiply by them")


# Docstrings and descriptions of these types are part of the OpenAPI document.
class ModelCard(pydantic.BaseModel):
    """One model; null is unknown, which of a checkpoint is all that a bundle measures."""

    version: str
    kind: Literal["bundle", "checkpoint"]
    level: Literal["frame", "video"]
    features: list[Feature]
    max_frames: int = Field(description="Longest video, one frame a second")
    normalize: Normalization
    num_classes: int
    members: list[CardMember] | None
    transform: CardTransform | None
    quality: CardQuality | None
    float32_bytes: int | None = Field(description="All weights as they were trained")
    stored_bytes: int | None = Field(description="All weights as they are stored")
    licence: Licence | None
    provenance: Provenance | None


class ModelCards(pydantic.BaseModel):
    name: str
    current: ModelCard
    canary: ModelCard | None = Field(description="What answers a share of the requests instead")
    canary_share: float


_OF_BUNDLES = ("members", "transform", "quality", "float32_bytes", "stored_bytes", "licence", "provenance")


def card_of(model: HostedModel) -> ModelCard:
    predictor, document = model.predictor, model.predictor.document
    spec = predictor.spec
    dtype = str(spec.dtype)
    measured = dict.fromkeys(_OF_BUNDLES) if document is None else _measured(document)
    return ModelCard(
        version=model.version,
        kind="checkpoint" if document is None else "bundle",
        level="video" if spec.is_video_level else "frame",
        features=[Feature(name=name, size=size, dtype=dtype) for name, size in spec.sizes.items()],
        max_frames=spec.max_frames,
        normalize=predictor.normalize,
        num_classes=spec.num_classes,
        **measured,
    )


def _measured(document: BundleDocument) -> dict[str, Any]:
    copied = {name: getattr(document, name) for name in _OF_BUNDLES}
    return {
        **copied,
        "members": [_member(entry, document) for entry in document.members],
        "transform": CardTransform.model_validate(document.transform, from_attributes=True),
        "quality": _quality(document.quality),
    }


def _quality(quality: Quality) -> CardQuality | None:
    # Without held-out videos nothing was measured.
    if quality.num_videos == 0:
        return None
    # The last one unless it is the first too.
    ends = quality.split[:1] + quality.split[1:][-1:]
    return CardQuality(
        gap_before=quality.gap_before,
        gap_after=quality.gap_after,
        num_videos=quality.num_videos,
        shards=[PurePosixPath(shard).name for shard in ends],
        num_shards=len(quality.split),
    )


def _member(entry: MemberEntry, document: BundleDocument) -> CardMember:
    copied = {name: getattr(entry, name) for name in CardMember.model_fields.keys() & MemberEntry.model_fields.keys()}
    if document.quality.num_videos == 0:
        copied |= {"gap_before": None, "gap_after": None}
    options = {name: value for name, value in entry.model.items() if name != "name"}
    return CardMember(
        name=entry.model["name"],
        options=_without_paths(options),
        data_manifest_sha256=None if entry.data_manifest is None else entry.data_manifest.sha256,
        **copied,
    )


def _without_paths(value: Any) -> Any:
    # Options that may name a file stay out: a model from outside the package can have some.
    if isinstance(value, dict):
        return {key: _without_paths(each) for key, each in value.items() if not _is_path(each)}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_paths(each) for each in value if not _is_path(each)]
    return value


def _is_path(value: object) -> bool:
    return isinstance(value, str) and ("/" in value or "\\" in value)

"""What an inspection expects of shards, and what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
from pydantic import Field, PositiveInt

from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.registry import Config
from yt8m_ray.schema import NUM_CLASSES_2018


class InspectionConfig(Config):
    """What is expected of the shards, and what to write besides the summary."""

    num_classes: int = Field(
        default=NUM_CLASSES_2018, ge=1, le=1_000_000, description="valid class ids are 0 to one less"
    )
    features: dict[str, PositiveInt] | None = Field(
        default=None, min_length=1, description="such as rgb=1024,audio=128; default: those of the first record"
    )
    output: str | None = Field(default=None, description="folder for a table and pictures of classes and lengths")
    manifest: str | None = Field(default=None, description="file that says what the shards are meant to be")
    write_manifest: str | None = Field(default=None, description="file to write that says what the shards are")
    num_workers: PositiveInt | None = Field(
        default=None, description="shards read at once; default: as many as the cluster has CPUs"
    )

    @pydantic.field_validator("features", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.split(",")]
        if not all(name and size.isdecimal() for name, _, size in pairs):
            raise ValueError(f"expected NAME=SIZE,..., such as rgb=1024,audio=128, found {value!r}")
        return {name: int(size) for name, _, size in pairs}

    @pydantic.field_validator("output")
    @classmethod
    def _check_output(cls, value: str | None) -> str | None:
        if value is not None and Path(value).exists() and not Path(value).is_dir():
            raise ValueError(f"expected a folder, {value} is a file")
        return value

    @pydantic.field_validator("manifest", "write_manifest")
    @classmethod
    def _check_manifest(cls, value: str | None) -> str | None:
        # Refused before all shards are read, not after.
        if value is not None and (not Path(value).absolute().parent.is_dir() or Path(value).is_dir()):
            raise ValueError(f"expected a file in a folder that exists, found {value!r}")
        return value

    @pydantic.model_validator(mode="after")
    def _check_features(self) -> InspectionConfig:
        if self.features is not None:
            # FeatureSpec refuses a mixture of video level and frame level.
            FeatureSpec(self.features, self.num_classes)
        return self

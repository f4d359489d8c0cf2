"""The document of one export: which checkpoints become which bundle, and on what its quality is measured.

Lives here: the config types of `jobs.export`. Does not live here: the work itself (`yt8m_ray.inference`).
"""

from __future__ import annotations

from typing import Annotated

import pydantic
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from yt8m_ray.config.data import Shards
from yt8m_ray.config.train import TrackingConfig
from yt8m_ray.config.transform import PUBLISHED_MIN_ELEMENTS, TransformConfig
from yt8m_ray.registry import Config

__all__ = ["PUBLISHED_MIN_ELEMENTS", "ExportConfig", "ExportDataConfig", "MemberConfig", "TransformConfig"]


def _check_licence(expression: str) -> str:
    try:
        return canonicalize_license_expression(expression)
    except InvalidLicenseExpression as error:
        raise ValueError(f"expected an SPDX expression such as Apache-2.0 or LicenseRef-Own: {error}") from None


class MemberConfig(Config):
    """One model of the ensemble.

    Attributes:
        checkpoint: A checkpoint folder, as the last line of `jobs.train` names it.
        weight: Its share of the averaged probabilities, relative to the other members; equal shares by default.
        ema: Whether to take the moving average of its weights; null takes what its run was validated with.
    """

    checkpoint: str
    weight: Annotated[float, pydantic.Field(gt=0)] = 1.0
    ema: bool | None = None


class ExportDataConfig(Config):
    """The shards that GAP is measured on.

    Attributes:
        validation: A glob, or a list of globs; None takes the first member's own `data.validation`.
        batch_size: Videos a batch while measuring; no result depends on it.
    """

    validation: Shards = None
    batch_size: Annotated[int, pydantic.Field(ge=1)] = 256


class ExportConfig(Config):
    """Checkpoints -> one bundle.

    Attributes:
        members: The models, at least one, in the order of the bundle's `members/` folders.
        output: The bundle's folder, or a file where it ends in `.tar`; it must not exist yet.
        licence: SPDX expression for the weights, `LicenseRef-NAME` for a licence of one's own.
        tracking: The MLflow store that gets a run with the bundle; a null uri means the first member's own store.
    """

    members: Annotated[tuple[MemberConfig, ...], pydantic.Field(min_length=1)]
    transform: TransformConfig = TransformConfig()
    data: ExportDataConfig = ExportDataConfig()
    output: str
    licence: Annotated[str, pydantic.AfterValidator(_check_licence)] = "Apache-2.0"
    tracking: TrackingConfig = TrackingConfig()

    def weights(self) -> list[float]:
        """Returns the members' weights, scaled to the sum 1."""
        total = sum(member.weight for member in self.members)
        return [member.weight / total for member in self.members]

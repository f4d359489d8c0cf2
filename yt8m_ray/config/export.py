"""The document of one export: which checkpoints become which bundle, and on what its quality is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import pydantic
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from yt8m_ray.config.data import Shards
from yt8m_ray.config.quantization import TransformConfig, TransformName
from yt8m_ray.config.train import TrackingConfig
from yt8m_ray.registry import ComponentConfig, Config


def _check_licence(expression: str) -> str:
    try:
        return canonicalize_license_expression(expression)
    except InvalidLicenseExpression as error:
        raise ValueError(f"expected an SPDX expression such as Apache-2.0 or LicenseRef-Own: {error}") from None


class MemberConfig(Config):
    """One model of the ensemble."""

    checkpoint: str
    """A checkpoint folder, as the last line of `yt8m train` names it."""
    weight: Annotated[float, pydantic.Field(gt=0)] = 1.0
    """Its share of the averaged probabilities, relative to the other members; none may be given where `weighting.name`
    is another than `given`."""
    ema: bool | None = None
    """Whether to take the moving average of its weights; null takes what its run was validated with."""
    transform: TransformName | None = None
    """How its weights are stored; null takes `transform.name` of the export."""


class ExportDataConfig(Config):
    """The shards that GAP is measured on."""

    validation: Shards = None
    """A glob, or a list of globs; null takes the first member's own `data.validation`."""
    batch_size: Annotated[int, pydantic.Field(ge=1)] = 256
    """Videos a batch while measuring; no result depends on it."""


class WeightingConfig(ComponentConfig):
    """Where the members' shares come from."""

    name: Literal["given", "equal", "nnls", "gap"] = "given"
    """`given` (`members[].weight`), `equal`, `nnls` (non-negative least squares of the labels) or `gap` (coordinate
    ascent on GAP, from the best of the others and of the best member alone)."""
    shards: Shards = None
    """What shares, members and transforms are chosen on: a glob, or a list of globs. No video of it may be in
    `data.validation`, which reports what the choice is worth, and no member may have been trained on it."""
    folds: Annotated[int, pydantic.Field(ge=2)] = 5
    """Of `shards`, by which cross-fitting measures what the choice is worth on other videos."""
    top_k: Annotated[int, pydantic.Field(ge=20)] = 60
    """Best classes of each member that are kept of a video while shares are sought; GAP counts 20."""


class SelectionConfig(Config):
    """The limits within which members are chosen, by GAP on `weighting.shards`; null means no limit."""

    max_bytes: pydantic.PositiveFloat | None = None
    """Of all members' weights as the bundle stores them; the rest of a bundle has some 0.2 MB."""
    max_latency_ms: pydantic.PositiveFloat | None = None
    """Of one clip through all members, one after the other, on one thread of this machine's CPU."""


class ExportConfig(Config):
    """Checkpoints -> one bundle."""

    members: Annotated[tuple[MemberConfig, ...], pydantic.Field(min_length=1)]
    """The models, at least one, in the order of the bundle's `members/` folders."""
    weighting: WeightingConfig = WeightingConfig()
    """How their shares are found."""
    selection: SelectionConfig | None = None
    """Chooses among the members by a greedy search; null takes all of them."""
    transform: TransformConfig = TransformConfig()
    data: ExportDataConfig = ExportDataConfig()
    output: str
    """The bundle's folder, or a file where it ends in `.tar`; it must not exist yet."""
    licence: Annotated[str, pydantic.AfterValidator(_check_licence)] = "Apache-2.0"
    """SPDX expression for the weights, `LicenseRef-NAME` for a licence of one's own."""
    tracking: TrackingConfig = TrackingConfig()
    """The MLflow store that gets a run with the bundle; a null uri means the first member's own store."""

    @property
    def needs_scores(self) -> bool:
        """Whether shares or members are chosen by what the members say of `weighting.shards`."""
        return self.weighting.name in ("nnls", "gap") or self.selection is not None

    @property
    def needs_transforms(self) -> bool:
        """Whether a member's transform is chosen by what it loses on `weighting.shards`."""
        return self.transform.name == "smallest" and any(member.transform is None for member in self.members)

    def transform_of(self, member: MemberConfig) -> TransformConfig:
        """Returns how a member is stored: as given, or as found (`with_transforms`)."""
        return self.transform.model_copy(update={"name": member.transform or self.transform.name})

    def trials(self, index: int) -> ExportConfig:
        """Returns an export of one member in all the ways that it may be stored, as trained first."""
        names = dict.fromkeys(("none", *self.transform.of))
        return self._with_members([self.members[index].model_copy(update={"transform": name}) for name in names])

    def with_transforms(self, names: Sequence[TransformName | None]) -> ExportConfig:
        """Returns the same with a transform for each member."""
        pairs = zip(self.members, names, strict=True)
        return self._with_members([member.model_copy(update={"transform": name}) for member, name in pairs])

    def weights(self) -> list[float]:
        """Returns the members' weights, scaled to the sum 1."""
        total = sum(member.weight for member in self.members)
        return [member.weight / total for member in self.members]

    def chosen(self, shares: Sequence[float]) -> ExportConfig:
        """Returns the same for the members that have a share, with it as their weight."""
        pairs = [(member, share) for member, share in zip(self.members, shares, strict=True) if share > 0]
        return self._with_members([member.model_copy(update={"weight": share}) for member, share in pairs])

    def _with_members(self, members: Sequence[MemberConfig]) -> ExportConfig:
        # A copy, not a new document: `_check` refuses given weights, and these were found.
        return self.model_copy(update={"members": tuple(members)})

    @pydantic.model_validator(mode="after")
    def _check(self) -> ExportConfig:
        name = self.weighting.name
        given = [index for index, member in enumerate(self.members) if member.weight != 1]
        if name != "given" and given:
            raise ValueError(
                f"members.{given[0]}.weight: is given, but weighting.name {name} says where weights come from"
            )
        if self.weighting.shards is None and (asker := self._asks_for_shards()) is not None:
            raise ValueError(f"weighting.shards: {asker} needs labelled shards, other ones than data.validation")
        if not self.needs_scores:
            unread = ("folds", "top_k") if self.needs_transforms else ("shards", "folds", "top_k")
            why = f"nothing is chosen by it where weights are {name} and selection is null"
            self.weighting.check_unused(*unread, why=why, section="weighting.")
        # All transforms that are given to a member, or tried.
        transforms: set[str] = {member.transform or self.transform.name for member in self.members}
        self.transform.check_use(transforms.union(self.transform.of) if "smallest" in transforms else transforms)
        return self

    def _asks_for_shards(self) -> str | None:
        if self.needs_scores:
            return "selection" if self.selection is not None else f"weighting.name {self.weighting.name}"
        return "transform.name smallest" if self.needs_transforms else None

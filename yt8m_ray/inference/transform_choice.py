"""Which way of storing a member is the smallest that loses little enough of GAP, and what a bundle says of it.

Lives here: the choice among ways that were measured, and its report. Does not live here: measuring them (`export`).
Imports no torch, so that a bundle is described in less than a second.
"""

from __future__ import annotations

from collections.abc import Sequence

from yt8m_ray.config.transform import TransformName
from yt8m_ray.registry import Config


class Trial(Config):
    """A member, stored in one way.

    Attributes:
        transform: The way.
        gap: Its GAP@20 alone.
        num_bytes: Of its weights.
    """

    transform: TransformName
    gap: float
    num_bytes: int


class TriedMember(Config):
    """A member, and the ways that it may be stored.

    Attributes:
        name: Its architecture.
        checkpoint: The folder that it came from.
        ema: As `members[].ema` had it.
        transform: The way that was taken.
        trials: All ways; the first is `none`, as trained.
    """

    name: str
    checkpoint: str
    ema: bool | None = None
    transform: TransformName
    trials: list[Trial]


class TransformReport(Config):
    """What was tried, on videos of which none is among those that `quality` was measured on.

    Attributes:
        shards: Their shards.
        num_videos: How many they are.
        max_gap_loss: The limit, as the export had it.
        members: All whose transform was not given, also those that weights or limits left out later.
    """

    shards: list[str]
    num_videos: int
    max_gap_loss: float
    members: list[TriedMember]


def smallest_within(trials: Sequence[Trial], max_gap_loss: float) -> Trial:
    """Returns the way with the fewest bytes that loses no more than `max_gap_loss` on the first one, as trained.

    Of equally many bytes it is the one that is named first; the first one itself loses nothing.
    """
    trained = trials[0].gap
    return min((trial for trial in trials if trained - trial.gap <= max_gap_loss), key=lambda trial: trial.num_bytes)


def format_trials(report: TransformReport) -> list[str]:
    """Returns lines of text: what each way costs and loses, and which was taken."""
    lines = [
        f"stored as the smallest that loses at most {report.max_gap_loss:g} of GAP, "
        f"on {report.num_videos} videos of {len(report.shards)} other shards:",
    ]
    for member in report.members:
        ema = "" if member.ema is None else f", ema: {str(member.ema).lower()}"
        lines += [f"{member.name} of {member.checkpoint}{ema}", f"  {'':<10} {'GAP':>9} {'loss':>10} {'MB':>9}"]
        for trial in sorted(member.trials, key=lambda trial: trial.num_bytes):
            loss = member.trials[0].gap - trial.gap
            taken = "  taken" if trial.transform == member.transform else ""
            size = trial.num_bytes / 1e6
            lines.append(f"  {trial.transform:<10} {trial.gap:9.6f} {loss:z10.6f} {size:9.2f}{taken}")
    return lines

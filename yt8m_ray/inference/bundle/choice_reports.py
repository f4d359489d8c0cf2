"""How the members of a bundle and their weights were chosen, as its document says it. Nothing here computes."""

from __future__ import annotations

from yt8m_ray.config.quantization import TransformName
from yt8m_ray.registry import Config


class _Considered(Config):
    """A model that could become a member: its architecture, its folder, and which of its weights were asked for."""

    name: str
    checkpoint: str
    ema: bool | None = None

    @property
    def source(self) -> str:
        return self.checkpoint if self.ema is None else f"{self.checkpoint}, ema: {str(self.ema).lower()}"


class Candidate(_Considered):
    """A model that was considered for an ensemble: its share, and GAP and costs alone."""

    # Null where an older version did not write it down.
    transform: str | None = None
    # 0 where it was left out.
    weight: float
    gap: float
    # Of its weights as a bundle stores them.
    num_bytes: int
    # Of one clip; null where no limit asked for it.
    latency_ms: float | None = None


class WeightingReport(Config):
    """How the rule `name` chose members and shares, and what GAP@20 that gave on the videos they were chosen on."""

    name: str
    # No video of them is among those that `quality` was measured on.
    shards: list[str]
    num_videos: int
    folds: int
    max_bytes: float | None = None
    max_latency_ms: float | None = None
    # Of every video's mean by the rule applied to the other folds: an unbiased estimate.
    gap_cross_fitted: float
    # Of the mean by the rule applied to all videos; higher by what fits chance.
    gap_in_sample: float
    # Of equal shares of all candidates, whatever they cost.
    gap_equal: float
    # Videos of which the chosen mean's best 20 may have classes outside the union that was kept.
    num_uncertain: int
    candidates: list[Candidate]


class Trial(Config):
    """A member stored in one way: its GAP@20 alone, and the bytes of its weights."""

    transform: TransformName
    gap: float
    num_bytes: int


class TriedMember(_Considered):
    """A member, the way that was taken to store it, and all that were tried."""

    transform: TransformName
    # The first is `none`, as trained: losses are differences from it.
    trials: list[Trial]


class TransformReport(Config):
    """What was tried, on videos of which none is among those that `quality` was measured on."""

    shards: list[str]
    num_videos: int
    max_gap_loss: float
    # All whose transform was not given, also those that weights or limits left out later.
    members: list[TriedMember]


def format_weighting(report: WeightingReport) -> list[str]:
    """Returns lines of text: GAP by each rule, and the candidates that were left out."""
    rows = [
        (f"weights by {report.name}, cross-fitted in {report.folds} folds", report.gap_cross_fitted),
        (f"weights by {report.name}, in sample", report.gap_in_sample),
        ("equal weights of all candidates", report.gap_equal),
        ("best candidate alone", max(candidate.gap for candidate in report.candidates)),
    ]
    lines = [f"chosen on {report.num_videos} videos of {len(report.shards)} other shards:"]
    lines += [f"{text:<42} {gap:.6f}" for text, gap in rows]
    for candidate in report.candidates:
        if not candidate.weight:
            stored_as = "" if candidate.transform is None else f" as {candidate.transform}"
            latency = "" if candidate.latency_ms is None else f", {candidate.latency_ms:.1f} ms"
            cost = f"{candidate.num_bytes / 1e6:.2f} MB{stored_as}{latency}"
            lines.append(f"left out: {candidate.name} (GAP {candidate.gap:.6f}, {cost}) of {candidate.source}")
    return lines


def format_trials(report: TransformReport) -> list[str]:
    """Returns lines of text: what each way costs and loses, and which was taken."""
    limit, videos = report.max_gap_loss, f"{report.num_videos} videos of {len(report.shards)} other shards"
    lines = [f"stored as the smallest that loses at most {limit:g} of GAP, on {videos}:"]
    for member in report.members:
        lines += [f"{member.name} of {member.source}", f"  {'':<10} {'GAP':>9} {'loss':>10} {'MB':>9}"]
        for trial in sorted(member.trials, key=lambda trial: trial.num_bytes):
            loss = member.trials[0].gap - trial.gap
            taken = "  taken" if trial.transform == member.transform else ""
            size = trial.num_bytes / 1e6
            # `z`: a loss of less than a millionth has no sign.
            lines.append(f"  {trial.transform:<10} {trial.gap:9.6f} {loss:z10.6f} {size:9.2f}{taken}")
    return lines

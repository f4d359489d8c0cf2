"""The report of a search: its sections and pictures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from yt8m_ray.config.space import Parameter, encode
from yt8m_ray.reporting.document import Section, write_document
from yt8m_ray.training.run.report_pictures import QUALITIES
from yt8m_ray.training.run.run_folder import REPORT_FOLDER
from yt8m_ray.tuning.records import TrialRecord, TrialStatus, pareto_front, ranked, total_epochs
from yt8m_ray.tuning.report import pictures
from yt8m_ray.tuning.report.dimensions import Dimension, dimensions_of, shown
from yt8m_ray.tuning.report.importance import MIN_TRIALS, countable, measure_importance, num_best
from yt8m_ray.tuning.report.optuna_pictures import COSTS, PARALLEL, draw_front, draw_parallel

MAX_ROWS = 100  # of a table

Facts = Sequence[tuple[str, str]]


def write_report(
    folder: Path,
    records: Sequence[TrialRecord],
    *,
    title: str,
    metric: str,
    pareto: str | None = None,
    facts: Facts = (),
    space: Mapping[str, Parameter] | None = None,
) -> Path:
    """Writes the report into `report` of the search's folder, and returns the path of report.html.

    `metric` names the score, and `pareto` the cost that was minimised too; `facts` are further rows about the search.
    Without a `space` the keys' values give their scales.

    Raises:
        OSError: the folder cannot be written.
    """
    place = folder / REPORT_FOLDER
    place.mkdir(parents=True, exist_ok=True)
    label, dimensions = QUALITIES.get(metric, metric), dimensions_of(records, space)
    costs = [cost for cost in COSTS if any(cost in record.costs for record in records)]
    fronts = [cost for cost in costs if cost in ("int8_bytes", pareto)]
    sections = [
        *_best(records, metric, label, costs),
        Section("Search", header=("what", "value"), rows=[*_counts(records), *facts]),
        *_progress(place, records, label, dimensions),
        *_importance(place, records, dimensions),
        *(section for cost in fronts for section in _front(place, records, cost, label)),
        *_trials(records, label, costs),
        *_others(records),
    ]
    return write_document(place, title, sections)


def _best(records: Sequence[TrialRecord], metric: str, label: str, costs: Sequence[str]) -> list[Section]:
    best = next(iter(ranked(records)), None)
    if best is None:
        return [Section("Best trial", "No trial has ended with a result.")]
    others = {QUALITIES[name]: value for name, value in best.metrics.items() if name in QUALITIES and name != metric}
    header = [label, *others, *(COSTS[cost].header for cost in costs)]
    values = [*(f"{value:.4f}" for value in (best.best_score, *others.values())), *_cost_cells(best, costs)]
    text = f"Trial #{best.number}, {best.status}, at epoch {best.best_epoch} of {best.num_epochs}."
    rows = [(key, shown(value)) for key, value in best.params.items()]
    return [
        Section("Best trial", text, header, [values]),
        Section("Its configuration", "What was searched.", ("key", "value"), rows),
    ]


def _counts(records: Sequence[TrialRecord]) -> Facts:
    counts = Counter(record.status for record in records)
    statuses = [f"{counts[status]} {status}" for status in get_args(TrialStatus) if counts[status]]
    hours = sum(record.seconds for record in records) / 3600
    return [
        ("trials", f"{len(records)}: {', '.join(statuses)}" if records else "0"),
        ("epochs of training, all trials together", f"{total_epochs(records):,}"),
        ("hours of training, all trials together", f"{hours:.2f}"),
    ]


def _progress(
    place: Path, records: Sequence[TrialRecord], label: str, dimensions: Sequence[Dimension]
) -> list[Section]:
    drawn = {
        "Progress": (pictures.PROGRESS, pictures.draw_progress(place / pictures.PROGRESS, records, label)),
        "Epochs": (pictures.EPOCHS, pictures.draw_epochs(place / pictures.EPOCHS, records, label)),
        "Parallel coordinates": (PARALLEL, draw_parallel(place / PARALLEL, records, dimensions, label)),
    }
    return [
        Section(title, picture=name, is_wide=name == PARALLEL) for title, (name, has_any) in drawn.items() if has_any
    ]


def _importance(place: Path, records: Sequence[TrialRecord], dimensions: Sequence[Dimension]) -> list[Section]:
    num_trials = len(countable(records))
    if num_trials < MIN_TRIALS:
        text = f"{MIN_TRIALS} trials that were completed or pruned would be needed to tell; there are {num_trials}."
        return [Section("Importance", text)]
    found = measure_importance(records, dimensions)
    if not found:
        return [Section("Importance", f"The {num_trials} trials do not differ enough to tell.")]
    pictures.draw_importance(place / pictures.IMPORTANCE, found, num_trials)
    told = [one.key for one in found if one.is_told]
    verdict = f"more than chance: {', '.join(told)}" if told else "no key is told from chance"
    text = (
        f"PED-ANOVA (Optuna's, with conditional keys) over {num_trials} completed and pruned trials: how much a key "
        f"decides whether a trial is among the best {num_best(num_trials)}. A pruned trial counts with the best score "
        f"that it had. Compared with random orders of the same scores, {verdict}."
    )
    return [Section("Importance", text, picture=pictures.IMPORTANCE)]


def _front(place: Path, records: Sequence[TrialRecord], cost: str, label: str) -> list[Section]:
    picture = f"front_{cost}.png"
    if not draw_front(place / picture, records, cost, label):
        return []
    front = pareto_front([record for record in records if cost in record.costs], cost)
    header = ("trial", label, COSTS[cost].header, "configuration")
    rows = [
        (f"#{record.number}", f"{record.best_score:.4f}", *_cost_cells(record, [cost]), _configuration(record))
        for record in front[::-1]
    ]
    name = COSTS[cost].name
    return [
        Section(
            f"{label} against {name}",
            "No other trial has both a better score and a lower cost than one of the front.",
            picture=picture,
        ),
        Section(f"The front of {label} and {name}", "The best score for its cost; the best first.", header, rows),
    ]


def _trials(records: Sequence[TrialRecord], label: str, costs: Sequence[str]) -> list[Section]:
    running = [record for record in records if record.status == "running"]
    rows = [
        (
            f"#{record.number}",
            record.status,
            _number(record.best_score, ".4f"),
            f"{record.best_epoch} of {record.num_epochs}" if record.scores else "–",
            *_cost_cells(record, costs),
            f"{record.seconds / 60:.1f}",
            _number(record.videos_per_s, ",.0f"),
            _configuration(record),
        )
        for record in (*ranked(records), *running)
    ]
    if not rows:
        return []
    header = (
        *("trial", "status", label, "epoch"),
        *(COSTS[cost].header for cost in costs),
        *("minutes", "videos/s", "configuration"),
    )
    text = "The best first. Epoch: the best of those trained."
    return [Section("Trials", text + _left_out(rows), header, rows[:MAX_ROWS], is_wide=True)]


def _others(records: Sequence[TrialRecord]) -> list[Section]:
    """Returns the table of trials without a result, failures first."""
    order = {"failed": 0, "stopped": 1, "pruned": 1, "completed": 1, "invalid": 2, "infeasible": 3}
    known = {record.number for record in ranked(records)}
    others = [record for record in records if record.status in order and record.number not in known]
    others.sort(key=lambda record: (order[record.status], record.number))
    if not others:
        return []
    rows = [
        (f"#{record.number}", record.status, str(record.num_epochs), record.cause or "–", _configuration(record))
        for record in others
    ]
    text = "They failed, or were ended before the end of an epoch, or were not trained."
    header = ("trial", "status", "epochs", "cause", "configuration")
    return [Section("Trials without a result", text + _left_out(rows), header, rows[:MAX_ROWS], is_wide=True)]


def _left_out(rows: Sequence[object]) -> str:
    return f" {len(rows) - MAX_ROWS:,} more are in trials.csv." if len(rows) > MAX_ROWS else ""


def _configuration(record: TrialRecord) -> str:
    """Returns the choice as arguments of a command."""
    return "  ".join(
        f"{key}={encode(value) if isinstance(value, dict | list) else shown(value)}"
        for key, value in record.params.items()
    )


def _cost_cells(record: TrialRecord, costs: Sequence[str]) -> list[str]:
    values = [record.costs.get(cost, math.nan) / COSTS[cost].size for cost in costs]
    return [_number(value, ",.0f" if value >= 100 else ".3g") for value in values]


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)

"""A whole search: its trials, and what it leaves in its folder and in MLflow."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yt8m_ray.artifacts.folder_manifest import folder_version
from yt8m_ray.cluster import READ_CPUS
from yt8m_ray.config.document import flatten, load_document, override, parse_value, to_yaml
from yt8m_ray.config.train import changes, with_absolute_paths
from yt8m_ray.config.tune import TuneConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.tracking import runs as tracking
from yt8m_ray.tracking.history import History, read_curves
from yt8m_ray.tracking.outcome import NOTE_TAG, VERSION_TAG, Outcome, describe_in_table
from yt8m_ray.tracking.runs import TrackingError, default_uri
from yt8m_ray.tracking.sender import RunFacts, Sender
from yt8m_ray.tracking.source import source_tags
from yt8m_ray.training.driver.interruptible import run_interruptibly
from yt8m_ray.training.driver.nodes import check_shared, present_nodes
from yt8m_ray.training.run.inputs import RunInputs, prepare_inputs, splits_of
from yt8m_ray.training.run.outcome import FIGURES, MLFLOW_STATUS, begun_facts, describe_inputs
from yt8m_ray.training.run.run_folder import RunRecord, Status, locked, run_path
from yt8m_ray.tuning.capacity import Capacity, plan_trials
from yt8m_ray.tuning.costs import measure_costs
from yt8m_ray.tuning.progress import headline, live_table
from yt8m_ray.tuning.records import TrialRecord, ranked, total_epochs, write_trials
from yt8m_ray.tuning.report.search_report import write_report
from yt8m_ray.tuning.study import SearchStudy
from yt8m_ray.tuning.study_file import STUDY_FILE, read_records
from yt8m_ray.tuning.trial import DONORS_FOLDER, TRIALS_FOLDER, trial_name
from yt8m_ray.tuning.tuner import SearchState, remove_leftovers, run_trials
from yt8m_ray.tuning.winner import BEST_FOLDER, CHECKPOINT_FOLDER, remove_checkpoints, write_best

logger = logging.getLogger(__name__)

CONFIG_FILE, TRIALS_FILE = "config.yaml", "trials.csv"
MLFLOW_SOURCE = "mlflow:"

_TABLE_INTERVAL_TICKS = 5
# What a continued search may not change; the study checks space and metric.
_FIXED = ("data.", "model.", "loss.", "distillation.", "teacher.", "run.seed")

# What it may change without a warning.
_FREE_TO_CHANGE = ("output", "run.resume", "tracking.", "scaling.", "checkpoint.", "tune.")


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search; its folder has `best/`, `trials.csv` and `report/`."""

    folder: Path
    best: TrialRecord
    records: list[TrialRecord] = field(repr=False)
    tracking_uri: str
    mlflow_run_id: str


def search(config: TuneConfig) -> SearchResult:
    """Runs, or continues, the search that `config` describes, on the Ray cluster this process is connected to.

    Raises:
        ConfigError: the config cannot run here, or the folder holds another search.
        CheckpointError: no trial ended with a score.
        KeyboardInterrupt, SystemExit: a signal came; the same call continues.
    """
    config = with_absolute_paths(config)
    folder, inputs = _check(config)
    capacity = plan_trials(config, present_nodes(), reader_cpus=READ_CPUS)
    if config.tracking.uri is None:
        config = override(config, {"tracking.uri": default_uri(config.output)})
    with locked(folder):
        check_shared(folder)
        (folder / CONFIG_FILE).write_text(to_yaml(config), encoding="utf-8")
        return _Search(config, folder, inputs).run(capacity)


def _check(config: TuneConfig) -> tuple[Path, RunInputs]:
    """Checks what needs no trial, and returns the search's folder and what its trials read."""
    if "://" in config.output:
        raise ConfigError(f"output: a search keeps its study in a folder that all nodes share, found {config.output}")
    shards = splits_of(config.data)
    if "validation" not in shards:
        raise ConfigError("data.validation: trials are compared by it; give some shards, or data.folds")
    inputs = prepare_inputs(config, shards)
    folder = run_path(config)
    has_study = (folder / STUDY_FILE).exists()
    if config.run.resume == "never" and has_study:
        raise ConfigError(f"run.resume: never, but {folder} holds a search already; choose another run.name or output")
    if config.run.resume == "must" and not has_study:
        raise ConfigError(f"run.resume: must, but {folder} holds no search to continue")
    if has_study:
        _check_same_base(config, folder / CONFIG_FILE)
    if RunRecord.load(folder) is not None and not has_study:
        raise ConfigError(f"run.name: {folder} holds a training run; choose another name for the search")
    return folder, inputs


def _check_same_base(config: TuneConfig, path: Path) -> None:
    """Raises ConfigError for other data or another model than before; logs other changes."""
    if not path.exists():  # the first start was killed before it wrote the file
        return
    everything = changes(load_document(path, TuneConfig), config)
    changed = [change for change in everything if not change[0].startswith(_FREE_TO_CHANGE)]
    refused = [f"{key}: {old!r} in {path}, now {new!r}" for key, old, new in changed if key.startswith(_FIXED)]
    if refused:
        raise ConfigError("\n".join([*refused, "trials of one search are compared; choose another run.name"]))
    for key, old, new in changed:
        logger.warning("continued with a change: %s was %r, now %r", key, old, new)


class _Search:
    """One start of a search; the config has absolute paths."""

    def __init__(self, config: TuneConfig, folder: Path, inputs: RunInputs) -> None:
        self._config = config
        self._folder = folder
        self._study = SearchStudy(folder, config, lambda trial: measure_costs(trial, config.tune.costs))
        self._history = History(folder)
        self._num_ended = 0
        self._tagger = ThreadPoolExecutor(1)
        assert config.tracking.uri is not None
        record = RunRecord.load(folder)
        tags, datasets = source_tags("search"), describe_inputs(config, inputs)
        facts = begun_facts(config, datasets, tags) | {"searched": ", ".join(config.tune.space)}
        self._about = f"Search by {config.tune.searcher.name} for {config.tune.metric}", facts
        self._sender = Sender(
            config.tracking.uri,
            folder,
            RunFacts(
                experiment=config.tracking.experiment,
                run_name=config.run.name,
                params=flatten(config),
                artifact_path=folder.parent / "mlartifacts",
                tags={**tags, NOTE_TAG: describe_in_table(f"{self._about[0]}.", facts)},
                datasets=datasets,
            ),
            run_id=record.mlflow_run_id if record else "",
        )

    def run(self, capacity: Capacity) -> SearchResult:
        """Runs the trials, and records the outcome however they end."""
        remove_leftovers(self._folder)
        (self._folder / TRIALS_FOLDER).mkdir(exist_ok=True)
        self._recover_epochs()
        self._learn_from_earlier()
        self._sender.start()
        RunRecord("running", self._sender.run_id).save(self._folder)
        status: Status = "failed"
        try:
            with _dashboard(self._config, self._folder):
                self._run_trials(capacity)
            result = self._finish()
            status = "finished"
            return result
        except (KeyboardInterrupt, SystemExit):
            status = "stopped"
            logger.warning("stopped: %s; the same command continues", self._headline())
            raise
        finally:
            self._tagger.shutdown()
            self._write_trials()
            RunRecord(status, self._sender.run_id).save(self._folder)
            self._sender.close(MLFLOW_STATUS[status])

    def _run_trials(self, capacity: Capacity) -> None:
        state = SearchState(self._config, self._study, self._folder, self._trial_ended)
        num_trials, plural = capacity.num_trials, "s" * (capacity.num_trials > 1)
        logger.info(
            "%s; %d trial%s at once, %g CPUs a worker", self._headline(), num_trials, plural, capacity.cpus_per_worker
        )
        ticks = itertools.count()
        with live_table(self._config.tune.metric) as show:

            def tick() -> None:
                if next(ticks) % _TABLE_INTERVAL_TICKS == 0:
                    state.tick()
                    show(self._study.records())

            run_interruptibly(
                lambda: run_trials(self._config, state, capacity, mlflow_run_id=self._sender.run_id),
                tick=tick,
                ask_to_stop=state.interrupt,
            )
        state.finish()

    def _finish(self) -> SearchResult:
        tune, records = self._config.tune, self._study.records()
        best = write_best(self._folder, self._config, records)
        remove_checkpoints(self._folder, records, tune.keep_checkpoints)
        shutil.rmtree(self._folder / DONORS_FOLDER, ignore_errors=True)
        self._write_trials()
        if not self._num_ended:
            logger.warning("nothing was left to try; raise tune.budget to go on, or choose another run.name")
        report = write_report(
            self._folder,
            records,
            title=self._config.run.name,
            metric=tune.metric,
            pareto=tune.pareto,
            facts=[("searcher", tune.searcher.name), ("scheduler", tune.scheduler.name)],
            space=tune.space,
        )
        self._sender.add_artifacts(self._folder / TRIALS_FILE)
        self._sender.add_artifacts(report.parent, artifact_path="report")
        self._sender.add_artifacts(self._folder / BEST_FOLDER, artifact_path=BEST_FOLDER)
        self._sender.set_outcome(self._outcome(best))
        logger.info("%s", self._headline())
        logger.info("report: %s", report)
        return SearchResult(self._folder, best, records, self._sender.uri, self._sender.run_id)

    def _outcome(self, best: TrialRecord) -> Outcome:
        """Returns what the search came to: its winner, in `best/`."""
        headline, facts = self._about
        figures = {name: best.metrics[name] for name in FIGURES if name in best.metrics}
        checkpoint = self._folder / BEST_FOLDER / CHECKPOINT_FOLDER
        shown = {FIGURES[name]: f"{value:.4f}" for name, value in figures.items()}
        winner = {"best": f"trial {best.number}, epoch {best.best_epoch}", **shown, "checkpoint": f"`{checkpoint}`"}
        params = {key: str(value) for key, value in best.params.items()}
        return Outcome(
            figures,
            len(self._study.records()),
            describe_in_table(f"{headline}: {self._headline()}", facts | winner | params),
            checkpoint=str(checkpoint),
            model_name=self._config.run.name,
            model_tags={VERSION_TAG: folder_version(checkpoint)},
            model_params=params,
        )

    def _trial_ended(self, record: TrialRecord) -> None:
        self._num_ended += 1
        records = self._study.records()
        best = ranked(records)
        ended = [one for one in records if one.status not in ("running", "infeasible", "invalid")]
        metrics = {"search/epochs": float(total_epochs(records))}
        if best:
            metrics[f"best/{self._config.tune.metric}"] = best[0].best_score
        self._history.append(metrics, len(ended))
        self._write_trials()
        self._tagger.submit(self._tag, record)  # aside: an MLflow that does not answer would hold up the trials

    def _tag(self, record: TrialRecord) -> None:
        run = RunRecord.load(self._folder / TRIALS_FOLDER / (record.run_name or trial_name(record.number)))
        if run is None or not run.mlflow_run_id:
            return
        tags = {"yt8m_ray.status": record.status, "yt8m_ray.trial": trial_name(record.number)}
        if record.cause:
            tags["yt8m_ray.cause"] = record.cause
        try:
            tracking.set_tags(self._sender.uri, run.mlflow_run_id, tags)
        except TrackingError as error:
            logger.debug("trial %d: %s", record.number, error)

    def _recover_epochs(self) -> None:
        """Reports epochs that a trial's run has logged and a killed start has not."""
        for record in self._study.records():
            if record.status == "running" and record.run_name:
                for epoch, metrics in _validations(self._folder / TRIALS_FOLDER / record.run_name, record):
                    self._study.report(record.number, epoch, metrics)

    def _learn_from_earlier(self) -> None:
        for source in self._config.tune.warm_start:
            records = earlier_records(source, self._config)
            num_added = self._study.add_earlier(records, source)
            logger.info("tune.warm_start: %d of %d trials of %s lie in this space", num_added, len(records), source)

    def _write_trials(self) -> None:
        with contextlib.suppress(OSError):  # such as a full disk: the study has all trials
            write_trials(self._folder / TRIALS_FILE, self._study.records(), self._config.tune.metric)

    def _headline(self) -> str:
        return headline(self._study.records(), metric=self._config.tune.metric)


def _validations(run: Path, record: TrialRecord) -> Iterator[tuple[int, dict[str, float]]]:
    """Yields (epoch, validation metrics) of a run's history that are missing in its trial."""
    curves = {
        name.removeprefix("validation/"): dict(zip(steps.tolist(), values.tolist(), strict=True))
        for name, (steps, values) in read_curves(run).items()
        if name.startswith("validation/")
    }
    for epoch, step in enumerate(sorted(curves.get("gap", {})), start=1):
        if epoch > record.num_epochs:
            yield epoch, {name: points[step] for name, points in curves.items() if step in points}


def earlier_records(source: str, config: TuneConfig) -> list[TrialRecord]:
    """Returns the trials of an earlier search, in a folder or in MLflow as `mlflow:RUN_ID`; ConfigError without one."""
    if not source.startswith(MLFLOW_SOURCE):
        return read_records(Path(source))[0]
    assert config.tracking.uri is not None
    metric = f"validation/{config.tune.metric}"
    try:
        runs = tracking.child_runs(config.tracking.uri, source.removeprefix(MLFLOW_SOURCE), metric=metric)
    except TrackingError as error:
        raise ConfigError(f"tune.warm_start: {source}: {error}") from None
    records = []
    for number, run in enumerate(runs):
        params = {key: parse_value(run.params[key]) for key in config.tune.space if key in run.params}
        scores = {epoch: score for epoch, score in enumerate(run.curve, start=1) if not math.isnan(score)}
        status: Any = run.tags.get("yt8m_ray.status", "completed")
        records.append(TrialRecord(number, params, status, scores=scores))
    return records


def _dashboard(config: TuneConfig, folder: Path) -> contextlib.AbstractContextManager[object]:
    if config.tune.dashboard_port is None:
        return contextlib.nullcontext()
    from yt8m_ray.tuning.dashboard import start_dashboard  # late: it imports a web framework

    try:
        dashboard = start_dashboard(folder, port=config.tune.dashboard_port)
    except ConfigError as error:  # a port that is taken does not end the search
        logger.warning("no dashboard: %s", error)
        return contextlib.nullcontext()
    logger.info("Search dashboard: %s", dashboard.url)
    return contextlib.closing(dashboard)

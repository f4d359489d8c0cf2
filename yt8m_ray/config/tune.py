"""The document of one search: a train config, what of it is searched, and how."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, PositiveFloat

from yt8m_ray.config.space import Params, Space, apply, grid, ordered
from yt8m_ray.config.space_checks import check_space
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.registry import Config, NonNegativeInt, PositiveInt

Cost = Literal["int8_bytes", "macs", "latency_ms"]

# Keys that only some schedulers use; with others they keep their default.
_USED_BY = {
    "grace_epochs": ("asha", "median"),
    "reduction_factor": ("asha", "hyperband"),
    "brackets": ("asha",),
    "min_trials": ("median",),
    "perturbation_epochs": ("pbt",),
    "perturb": ("pbt",),
    "quantile": ("pbt",),
    "resample_probability": ("pbt",),
    "synchronous": ("pbt",),
}

# What may change in a trial that continues with its weights; of the model, dropout alone.
_MAY_CHANGE = ("augmentation.", "optimizer.", "distillation.", "loss.", "train.batch_size")


class SearcherConfig(Config):
    """The choice of the next configuration."""

    name: Literal["tpe", "gp", "random", "grid"] = "tpe"
    """`tpe`: tree-structured Parzen estimators (Bergstra et al. 2011; Optuna's, over all keys jointly); `gp`: a
    Gaussian process (Optuna's); `random`; `grid`: every configuration once."""
    seed: NonNegativeInt | None = None
    """Null takes `run.seed`, the seed of the trials' training."""
    num_random: PositiveInt = 10
    """Random configurations before `tpe` and `gp` begin to model."""

    @pydantic.model_validator(mode="after")
    def _check_use(self) -> SearcherConfig:
        if self.name not in ("tpe", "gp"):
            self.check_unused("num_random", why=f"searcher {self.name} models nothing, only tpe and gp do")
        return self


class SchedulerConfig(Config):
    """The rule that stops trials early."""

    name: Literal["asha", "hyperband", "median", "pbt", "fifo"] = "asha"
    """`asha`: at epochs grace, grace * factor and so on a trial continues if it is among the best 1 / factor of those
    that came there (arXiv:1810.05934); `hyperband`: brackets of trials that wait for one another (arXiv:1603.06560);
    `median`: stops below the median of the others' means; `pbt`: population based training (arXiv:1711.09846), in which
    the worst continue with the weights of the best and other rates; `fifo`: none."""
    grace_epochs: PositiveInt = 1
    """Epochs before a trial may be stopped."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3
    brackets: PositiveInt = 1
    """Of `asha`: each further one begins to stop a factor later."""
    min_trials: PositiveInt = 3
    """Of `median`: trials with a result before any is stopped."""
    perturbation_epochs: PositiveInt = 1
    """Of `pbt`: epochs between two comparisons of the population."""
    perturb: tuple[str, ...] = ()
    """Of `pbt`: keys of the space that change in a trial, such as the learning rate and dropout."""
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Of `pbt`: share of the population that counts as best, and as worst."""
    resample_probability: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Of `pbt`: how often a key is drawn instead of multiplied by 0.8 or 1.2."""
    synchronous: bool = False
    """Of `pbt`: whether trials wait for one another; else the first ones are compared with few others."""

    @pydantic.model_validator(mode="after")
    def _check_use(self) -> SchedulerConfig:
        for key, names in _USED_BY.items():
            if self.name not in names:
                self.check_unused(key, why=f"scheduler {self.name} does not use it, only {', '.join(names)}")
        if self.name == "pbt" and not self.perturb:
            raise ValueError("perturb: population based training needs keys of the space that change in a trial")
        return self


class BudgetConfig(Config):
    """When the search ends, whichever comes first. A grid also ends after its last configuration."""

    trials: PositiveInt | None = 20
    """Trained configurations; null is as many as the others allow."""
    epochs: PositiveInt | None = None
    """Of all trials together."""
    wall_s: PositiveFloat | None = None
    """Of all starts of the search together."""


class LimitsConfig(Config):
    """The most that a model may cost; a configuration beyond is recorded and not trained."""

    int8_bytes: PositiveFloat | None = None
    """Of the weights as `yt8m export` stores them."""
    macs: PositiveFloat | None = None
    """Multiply-accumulates of a clip of `data.max_frames` frames."""
    latency_ms: PositiveFloat | None = None
    """Median of one such clip's forward pass, float32, on one thread of the CPU where the search started."""


class SearchConfig(Config):
    """A search: its space, searcher and scheduler, budget and limits."""

    space: Space = Field(min_length=1)
    """By dotted key of the train config: see `yt8m_ray.config.space.Parameter`."""
    metric: Literal["gap", "hit_at_1", "perr", "mean_ap"] = "gap"
    """The validation metric to maximise, the best of a trial's epochs."""
    pareto: Cost | None = None
    """A cost to minimise too: the result is a front, its best the one with the highest metric; no trial stops early."""
    searcher: SearcherConfig = SearcherConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    budget: BudgetConfig = BudgetConfig()
    limits: LimitsConfig = LimitsConfig()
    max_epochs: PositiveInt | None = None
    """Of a trial; null is the train config's `train.num_epochs`. The winner's config keeps that."""
    max_concurrent: PositiveInt | None = None
    """Trials at once; null is as many as fit the cluster."""
    start_with: list[dict[str, Any]] = Field(default_factory=list)
    """Configurations to try first, by dotted key; the searcher chooses missing keys."""
    warm_start: list[str] = Field(default_factory=list)
    """Earlier searches that `tpe` and `gp` learn from: folders, or `mlflow:RUN_ID` of parent runs in `tracking.uri`."""
    keep_checkpoints: PositiveInt = 1
    """Number of best trials whose checkpoints stay after the search."""
    max_failures: NonNegativeInt = 2
    """How often a trial whose process or node is lost starts again from its last checkpoint."""
    retrain: dict[str, Any] = Field(default_factory=dict)
    """Further changes of `yt8m tune --retrain` and `best/config.yaml`, by dotted key."""
    dashboard_port: NonNegativeInt | None = 0
    """Of the web page on 127.0.0.1; 0 takes a free one, null shows none."""

    @property
    def costs(self) -> list[Cost]:
        """The costs to measure of every trial: latency, which takes a second, only where it is used."""
        has_latency = self.limits.latency_ms is not None or self.pareto == "latency_ms"
        return ["int8_bytes", "macs", *(["latency_ms"] if has_latency else [])]  # type: ignore[list-item]

    @pydantic.model_validator(mode="after")
    def _check(self) -> SearchConfig:
        if self.pareto is not None and self.scheduler.name != "fifo":
            raise ValueError("scheduler: a front has no order by which to stop trials; give name: fifo with pareto")
        if self.searcher.name == "grid" and self.start_with:
            raise ValueError("start_with: a grid tries every configuration by itself")
        if self.warm_start and self.pareto is not None:
            raise ValueError("warm_start: a front learns from its own trials alone; remove it, or pareto")
        if self.warm_start and self.searcher.name not in ("tpe", "gp"):
            raise ValueError(f"warm_start: searcher {self.searcher.name} learns from nothing; tpe and gp do")
        if self.searcher.name != "grid" and not any(vars(self.budget).values()):
            raise ValueError("budget: expected at least one of trials, epochs, wall_s")
        for key in self.scheduler.perturb:
            if key not in self.space:
                raise ValueError(f"scheduler.perturb: {key} is not in tune.space")
            if self.space[key].when:
                raise ValueError(f"scheduler.perturb: {key} is not in every trial, its condition is `when`")
            may_change = key.startswith(_MAY_CHANGE) or "dropout" in key
            if not may_change or key.endswith("name"):
                raise ValueError(f"scheduler.perturb: {key} cannot change in a trial, whose weights and data stay")
        return self


def trial_config(base: TrainConfig, params: Params, *, max_epochs: int | None) -> TrainConfig:
    """Returns the train config of a trial, without its name and output; ConfigError for an invalid choice."""
    config = apply(base, params)
    num_epochs = min(config.train.num_epochs, max_epochs or config.train.num_epochs)
    return config.model_copy(update={"train": config.train.model_copy(update={"num_epochs": num_epochs})})


class TuneConfig(TrainConfig):
    """A search: a train config with the section `tune`; `run.name` and `output` are those of the search's folder."""

    tune: SearchConfig

    @functools.cached_property
    def base(self) -> TrainConfig:
        """The train config that trials change, at full length."""
        return TrainConfig.model_validate(self.model_dump(mode="json", exclude={"tune"}))

    @property
    def max_epochs(self) -> int:
        """Epochs of the longest trial that may begin."""
        searched = self.tune.space.get("train.num_epochs")
        if self.tune.max_epochs is not None or searched is None:
            return self.tune.max_epochs or self.train.num_epochs
        return max(int(value) for value in searched.choice or searched.bounds)

    def trial_config(self, params: Params) -> TrainConfig:
        """Returns `trial_config` of this search."""
        return trial_config(self.base, params, max_epochs=self.tune.max_epochs)

    @pydantic.model_validator(mode="after")
    def _check_search(self) -> TuneConfig:
        try:
            base = self.base
            ordered(self.tune.space)
            check_space(self.tune.space, base)
            if self.tune.searcher.name == "grid":
                grid(self.tune.space, base)
            for params in self.tune.start_with:
                self._check_start(params)
            apply(base, self.tune.retrain, where="tune.retrain")
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def _check_start(self, params: Params) -> None:
        for key, value in params.items():
            if key not in self.tune.space:
                raise ConfigError(f"tune.start_with: {key} is not in tune.space")
            if not self.tune.space[key].contains(value):
                raise ConfigError(f"tune.start_with: {key}: {value!r} is not in its range")

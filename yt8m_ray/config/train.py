"""The document of one training run. The saved file holds every default and lies beside the weights."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, TypeVar, cast

import pydantic
from pydantic import Field, NonNegativeFloat, PositiveFloat

from yt8m_ray.components import LOSSES, MODELS
from yt8m_ray.config.data import AugmentationConfig, DataConfig
from yt8m_ray.config.distillation import DistillationConfig, TeacherConfig
from yt8m_ray.config.document import flatten
from yt8m_ray.config.optimizer import EMAConfig, OptimizerConfig
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.registry import (
    ABSOLUTE,
    ComponentConfig,
    Config,
    Imports,
    LocalPath,
    NonNegativeInt,
    PositiveInt,
    import_extensions,
)

LossField = Annotated[pydantic.SerializeAsAny[ComponentConfig], pydantic.BeforeValidator(LOSSES.validate)]


class RunConfig(Config):
    """Which run this is: its folder is `output/name`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: NonNegativeInt = 0
    resume: Literal["auto", "never", "must"] = "auto"
    imports: Imports = ()
    """Modules, or Python files, that register models, losses or metrics of your own; see docs/extending.md."""
    trace_videos: bool = False
    """Whether each worker writes the ids of each step's videos to `videos-RANK.jsonl` there."""


Precision = Literal["float32", "bfloat16"]


class LoopConfig(Config):
    """How long to train, and on what batches."""

    batch_size: PositiveInt = 1024
    """Videos a step over all workers together."""
    num_epochs: PositiveInt = 5
    max_steps: PositiveInt | None = None
    """Ends the run early; null trains all epochs."""
    init_from: LocalPath | None = None
    """A checkpoint whose weights the run starts from. Those that do not fit, such as a head's for other classes, are
    initialised as usual and named."""
    accumulation: PositiveInt = 1
    """Parts of a worker's share of a batch, one after the other, for what does not fit the memory at once; the step is
    that of the whole batch, but batch norm sees parts."""
    precision: Precision = "float32"
    """`bfloat16` runs the model under autocast; weights and loss stay float32. A CPU without instructions for it takes
    float32, which is faster there, with a warning."""
    regularization_penalty: NonNegativeFloat = 1.0
    """Weight of the model's own L2 terms."""
    sync_batch_norm: bool = True
    """Statistics over the global batch, so that results do not depend on the number of workers."""
    warm_up_batch_norm: bool = True
    """Moving statistics follow fast in the first steps, so that short runs can be evaluated; false is the published
    share from the start."""
    compile: bool = False
    """Whether torch.compile translates the model first: minutes at the start, faster steps after."""
    transfer: Literal["uint8", "float32"] = "uint8"
    """Frames go to the device as they are stored, or as floats, four times the bytes."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What a loss or gradient that is not finite does: `stop` ends the run, `skip` leaves out and counts the step,
    though the tenth in a row ends the run too. Either names the videos."""
    profile: bool = False
    """Writes a trace of some steps of the first epoch into the run's folder, for a trace viewer."""
    report: bool = True
    """Ends the run with a report of its best checkpoint: `report/report.html` in its folder."""
    log_every_steps: PositiveInt = 10
    """Interval of the progress line and of the curves in MLflow."""

    def is_reached(self, *, epoch: int, step: int) -> bool:
        """Returns whether a run is at its end after `epoch` whole epochs and `step` steps."""
        return epoch >= self.num_epochs or (self.max_steps is not None and step >= self.max_steps)


class CheckpointConfig(Config):
    """When checkpoints are written; one is written after every epoch in any case."""

    every_steps: PositiveInt | None = None
    """Steps between two checkpoints inside an epoch."""
    num_to_keep: PositiveInt = 1
    """Best checkpoints by validation GAP to keep; the last one is kept too."""
    on_write_error: Literal["stop", "continue"] = "stop"
    """What a checkpoint that cannot be written (a full disk) does: `stop` ends the run, `continue` trains on and tries
    again at the next one. Earlier ones stay whole."""


class ScalingConfig(Config):
    """The workers of the run; what is learned does not depend on how many there are."""

    num_workers: PositiveInt | tuple[PositiveInt, PositiveInt] = 1
    """How many, or `[least, most]`: as many as the cluster has room for, as nodes come and leave."""
    use_gpu: bool | None = None
    """One GPU a worker; null takes GPUs where the cluster has one for every worker."""
    gpus_per_worker: PositiveFloat = 1.0
    """GPUs of a worker that has some; a part of one lets several runs of one worker share it."""
    cpus_per_worker: PositiveFloat | None = None
    """Logical CPUs and torch threads of a worker; null takes one, or less where the cluster is small."""
    local_mode: bool = True
    """One worker without a GPU, on a cluster of one machine, trains in the process of the command, which starts faster;
    false gives it a process of its own, so that the run survives its death."""
    max_failures: NonNegativeInt = 3
    """Restarts after a lost worker before the run fails."""

    @property
    def least_workers(self) -> int:
        """Fewest workers that the run goes on with."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def most_workers(self) -> int:
        """Workers where the cluster has room for them."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    @pydantic.model_validator(mode="after")
    def _check_range(self) -> ScalingConfig:
        if self.least_workers > self.most_workers:
            raise ValueError(f"num_workers: expected [least, most], found {list(cast(Any, self.num_workers))}")
        if self.gpus_per_worker < 1 and self.most_workers > 1:
            raise ValueError(
                "gpus_per_worker: workers of one run cannot share a GPU, since NCCL lets each have its own"
            )
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise ValueError(f"gpus_per_worker: expected a part of a GPU, or whole ones, found {self.gpus_per_worker}")
        return self


class TrackingConfig(Config):
    """Where MLflow keeps the run; a null uri means an SQLite file under the output folder."""

    uri: LocalPath | None = None
    experiment: str = "yt8m_ray"
    system_metrics: bool = True
    """Whether load and memory of rank 0's processor and GPU are logged with each interval."""


class TrainConfig(Config):
    """One training run, complete: `fit` needs nothing else."""

    output: LocalPath = "runs"
    run: RunConfig
    data: DataConfig = DataConfig()
    model: Annotated[pydantic.SerializeAsAny[ComponentConfig], pydantic.BeforeValidator(MODELS.validate)]
    loss: LossField = Field(default_factory=lambda: LOSSES.parse({"name": "cross_entropy"}))
    augmentation: AugmentationConfig = AugmentationConfig()
    distillation: DistillationConfig = DistillationConfig()
    teacher: TeacherConfig = TeacherConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EMAConfig = EMAConfig()
    train: LoopConfig = LoopConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    scaling: ScalingConfig = ScalingConfig()
    tracking: TrackingConfig = TrackingConfig()

    def read_options(self, split: str) -> ReadOptions:
        """Returns how the shards of `train` or `validation` are read; to learn from a teacher alone needs no labels."""
        uses_labels = self.distillation.weight < 1 or not self.distillation.is_on
        if self.teacher.is_on:
            uses_labels = self.teacher.model is not None or (uses_labels and self.teacher.label_weight > 0)
        options = self.data.read_options
        return options if uses_labels or split != "train" else dataclasses.replace(options, labels="optional")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _import_first(cls, tree: Any) -> Any:
        # Before the other sections, which may name what the imports register.
        run = tree.get("run") if isinstance(tree, dict) else None
        if isinstance(run, dict) and isinstance(run.get("imports"), list | tuple):
            try:
                import_extensions(map(str, run["imports"]))
            except ValueError as error:
                raise ValueError(f"run.imports: {error}") from None
        return tree

    @pydantic.model_validator(mode="after")
    def _check_augmentation(self) -> TrainConfig:
        if self.data.spec.is_video_level:
            why = "a video-level record has one frame"
            self.augmentation.check_unused("frame_dropout", "min_crop", why=why, section="augmentation.")
        return self

    @pydantic.model_validator(mode="after")
    def _check_model(self) -> TrainConfig:
        # What only a built model can refuse, `check_models` does when the run begins.
        for model in (self.model, self.teacher.model):
            try:
                if model is not None:
                    model.check_sizes(self.data.feature_sizes)
            except ValueError as error:
                raise ValueError(f"model: {error}") from None
        return self


def changes(before: TrainConfig, after: TrainConfig) -> list[tuple[str, Any, Any]]:
    """Returns (dotted key, old value, new value) of what differs between two configs, sorted."""
    old, new = flatten(before), flatten(after)
    # Two dicts are equal in any order, but features are concatenated in theirs.
    if list(before.data.features) != list(after.data.features):
        old["data.features"], new["data.features"] = dict(before.data.features), dict(after.data.features)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key) or key == "data.features")
    return [(key, old.get(key), new.get(key)) for key in keys]


C = TypeVar("C", bound=TrainConfig)


def with_absolute_paths(config: C) -> C:
    """Returns the config with its local paths absolute."""
    # Workers and later jobs run in other folders than this process.
    return type(config).model_validate(config.model_dump(mode="json"), context=ABSOLUTE)

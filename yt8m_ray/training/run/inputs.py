"""What a run reads: its shards, their manifest and the vocabulary, checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass

from yt8m_ray.config.data import DataConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.inspection.dataset_manifest import Manifest, check_shards, load_manifest
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.data.pipeline.preflight import check_first_videos
from yt8m_ray.data.pipeline.ray_dataset import estimate_num_videos
from yt8m_ray.data.pipeline.shards import bootstrap, expand_shards, split_folds
from yt8m_ray.errors import ConfigError, config_errors
from yt8m_ray.losses import build_loss
from yt8m_ray.training.steps.model_checks import check_models
from yt8m_ray.training.steps.teachers import check_paths


@dataclass(frozen=True)
class RunInputs:
    """What a run reads."""

    shards: dict[str, list[str]]  # of `train` and perhaps `validation`
    manifest: Manifest | None
    num_videos: float  # of `train`; an estimate without a manifest


def prepare_inputs(config: TrainConfig, shards: dict[str, list[str]], *, is_new: bool = True) -> RunInputs:
    """Returns what a run reads of the shards from `splits_of`, after every check that needs no cluster.

    Raises:
        ConfigError: the vocabulary, the loss, a teacher, the manifest or what the run starts from does not fit.
        ValueError, OSError: the first videos do not fit the model, have no labels, or cannot be read.
    """
    data, expected = config.data, config.data.num_classes
    if data.vocabulary is not None and (found := len(Vocabulary.load(data.vocabulary))) != expected:
        raise ConfigError(f"data.vocabulary: {data.vocabulary} names {found} classes, data.num_classes is {expected}")
    check_paths(config, shards["train"], is_new=is_new)
    # Its messages name the key themselves, which depends on the loss.
    try:
        build_loss(config.loss).check_num_classes(expected)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from None
    manifest = None
    if data.manifest is not None:
        with config_errors("data.manifest"):
            manifest = load_manifest(data.manifest)
        check_shards(manifest, [shard for split in shards.values() for shard in split])
    check_records(config, shards)
    if manifest is None:
        num_videos = estimate_num_videos(shards["train"], data.read_options)
    else:
        num_videos = manifest.num_videos_of(shards["train"])
    return RunInputs(shards, manifest, num_videos)


def check_records(config: TrainConfig, shards: dict[str, list[str]]) -> None:
    """Checks that the models can be built, and that the first videos of each split fit them and have labels.

    Errors as in `check_models` and `check_first_videos`.
    """
    # Verbs call it before they start a cluster, and `fit` for callers without a verb: as a rule it reads one record a
    # split.
    check_models(config)
    for split, paths in shards.items():
        check_first_videos(paths, config.data.spec, config.read_options(split), key=f"data.{split}")


def splits_of(data: DataConfig) -> dict[str, list[str]]:
    """Returns the shards of `train` and, where there is one, of `validation`; no shard is in both.

    Those of `train` may be there several times, or not at all, where `data.bagging` draws them.
    """
    shards: dict[str, list[str]] = {"train": expand_shards(data.train, key="data.train")}
    if data.folds is not None:
        shards["train"], shards["validation"] = split_folds(
            shards["train"], num_folds=data.folds, fold=data.fold, seed=data.split_seed
        )
    elif data.validation is not None:
        shards["validation"] = expand_shards(data.validation, key="data.validation")
    both = sorted(set(shards["train"]) & set(shards.get("validation", ())))
    if both:
        raise ConfigError(f"data.validation: {len(both)} of its shards are in data.train too, the first is {both[0]}")
    if data.bagging is not None:
        shards["train"] = bootstrap(shards["train"], seed=data.bagging)
    return shards

"""A checkpoint made of the variables of another system."""

from __future__ import annotations

from pathlib import Path

from yt8m_ray.artifacts.checkpoint import save_checkpoint
from yt8m_ray.artifacts.folder_manifest import check_new, written_aside
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.interop.tensorflow import load_published
from yt8m_ray.interop.variables import read_variables
from yt8m_ray.models import build_model_for_weights


def import_checkpoint(
    config: TrainConfig, variables_path: str | Path, folder: str | Path, *, ema: bool = False
) -> Path:
    """Writes a checkpoint with the weights of a published TensorFlow system, and returns its folder.

    Args:
        config: Its model gets the weights; the rest is what the checkpoint is evaluated and served with.
        variables_path: An .npz file, or the prefix of a TensorFlow checkpoint; see `read_variables`.
        folder: Does not exist yet, or is empty; after an error nothing is left in it.
        ema: Take the moving averages where there are some.

    Raises:
        ConfigError: the folder is taken or cannot be written, or there are no such variables.
        ValueError: the variables cannot be read, or do not fit the model; all faults are listed.
    """
    folder = Path(folder)
    check_new(folder)
    try:
        variables = read_variables(variables_path)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from None
    sizes, num_classes = config.data.feature_sizes, config.data.num_classes
    model = build_model_for_weights(config.model, feature_sizes=sizes, num_classes=num_classes)
    load_published(model, variables, ema=ema)
    # The model has it now; the config, from which it is built again, must say the same.
    if getattr(config.model, "attend_to_padding", None) is False:
        raise ConfigError("model.attend_to_padding: published weights need true, found false")
    with written_aside(folder) as aside:
        facts = {"imported_from": str(variables_path), "ema": ema}
        save_checkpoint(aside, config=config, model=model, state={}, facts=facts)
    return folder

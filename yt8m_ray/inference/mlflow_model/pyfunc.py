"""A bundle -> the folder of an MLflow model for `mlflow.pyfunc.load_model` and `mlflow models serve`."""

from __future__ import annotations

import base64
import importlib.metadata
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array

import yt8m_ray
from yt8m_ray.data.format.features import FeatureSpec
from yt8m_ray.inference.bundle.document import read_document
from yt8m_ray.inference.bundle.golden_answers import make_inputs
from yt8m_ray.inference.mlflow_model.video_table import ANSWER_COLUMNS, ID_COLUMN
from yt8m_ray.schema import MEAN_PREFIX

DEFAULT_TOP_K = 20

# Distributions that `pyfunc_model` imports, directly or not; each is pinned to the version that is installed here.
REQUIREMENTS = (
    "crc32c",
    "filelock",
    "mlflow",
    "numba",
    "numpy",
    "packaging",
    "pandas",
    "protobuf",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "torch",
)

_CODE_FILE = Path(__file__).with_name("pyfunc_model.py")


def save_pyfunc_model(bundle: Path, path: Path) -> None:
    """Writes an MLflow model with a copy of a bundle into a new folder; ValueError where the bundle is damaged."""
    document = read_document(bundle)
    model = Model(metadata={"yt8m_ray": yt8m_ray.__version__})
    mlflow.pyfunc.save_model(
        path=str(path),
        python_model=str(_CODE_FILE),  # not an object, which MLflow would pickle
        artifacts={"bundle": str(bundle)},
        # No index of packages has this one; and the model keeps the code that it was made with.
        code_paths=[str(Path(yt8m_ray.__file__).parent)],
        signature=signature(document.spec),
        input_example=input_example(document.spec),
        pip_requirements=requirements(),
        mlflow_model=model,
    )
    # Loading takes the file of this name from the folder of the model; MLflow wrote where it is on this machine.
    model.flavors[mlflow.pyfunc.FLAVOR_NAME]["model_code_path"] = _CODE_FILE.name
    model.save(str(path / "MLmodel"))


def signature(spec: FeatureSpec) -> ModelSignature:
    """Returns the columns of a model's inputs and outputs, named as in the service's requests and answers."""
    inputs: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, ID_COLUMN, required=False)]
    for name in spec.sizes:
        if spec.is_video_level:
            # Means, or the frames to average; which of them a row has, the code checks.
            inputs.append(ColSpec(Array(DataType.double), name, required=False))
            inputs.append(ColSpec(DataType.string, name.removeprefix(MEAN_PREFIX), required=False))
        else:
            inputs.append(ColSpec(DataType.string, name))
    types: list[DataType | Array] = [DataType.string, *map(Array, (DataType.long, DataType.string, DataType.double))]
    outputs: list[ColSpec | TensorSpec] = [ColSpec(*column) for column in zip(types, ANSWER_COLUMNS, strict=True)]
    params = ParamSchema([ParamSpec("top_k", DataType.long, DEFAULT_TOP_K)])
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs), params=params)


def input_example(spec: FeatureSpec) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Returns a table of one made-up video, and params."""
    video = make_inputs(spec, 1)
    record: dict[str, Any] = {ID_COLUMN: str(video.video_ids[0])}
    ends = np.cumsum(list(spec.sizes.values()))
    for name, values in zip(spec.sizes, np.split(video.frames, ends[:-1], axis=1), strict=True):
        record[name] = values[0].tolist() if spec.is_video_level else base64.b64encode(values.tobytes()).decode()
    return pd.DataFrame([record]), {"top_k": 5}


def requirements() -> list[str]:
    """Returns the pins of REQUIREMENTS."""
    # Without a local version such as torch's `+cpu`, which no index has.
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS]

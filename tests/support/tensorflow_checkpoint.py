"""PYTHON tests/support/tensorflow_checkpoint.py FOLDER: writes FOLDER/model.ckpt-7 as the savers of TensorFlow 1 do.

Run by a Python that has TensorFlow; tests/golden/tensorflow_checkpoint is what TensorFlow 2.21 wrote. The model is a
mixture of two experts for 3 features and 2 classes, with its scope, moving averages, Adam's slots and a counter.
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf

SHAPES = {"gates/weights": (3, 6), "experts/weights": (3, 4), "experts/biases": (4,)}


def main(folder: str) -> None:
    """Writes the checkpoint; every weight counts up from 0, and its moving average is greater by 1."""
    variables: dict[str, np.ndarray] = {"global_step": np.int64(7), "beta1_power": np.float32(0.9)}
    for name, shape in SHAPES.items():
        weights = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        variables[f"tower/{name}"] = weights
        variables[f"tower/tower/{name}/ExponentialMovingAverage"] = weights + 1
        variables[f"tower/{name}/Adam"] = variables[f"tower/{name}/Adam_1"] = weights * 0
    names = sorted(variables)
    tf.raw_ops.SaveV2(
        prefix=f"{folder}/model.ckpt-7",
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(variables[name]) for name in names],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

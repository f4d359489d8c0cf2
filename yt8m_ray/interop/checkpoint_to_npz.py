"""python -m yt8m_ray.interop.checkpoint_to_npz PREFIX TARGET: TensorFlow weights as an .npz file."""

from __future__ import annotations

import sys

import numpy as np

from yt8m_ray.interop.variables import TENSORFLOW_EXTRA, is_weight


def convert(prefix: str, target: str) -> None:
    """Writes every weight of the checkpoint `prefix`, without optimizer slots and counters, to `target`."""
    # Imported here: TensorFlow is an extra.
    try:
        import tensorflow
    except ModuleNotFoundError:
        sys.exit(f"TensorFlow is not installed; {TENSORFLOW_EXTRA}, or save the variables as an .npz file")
    try:
        reader = tensorflow.train.load_checkpoint(prefix)
        arrays = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if is_weight(name)}
    except (tensorflow.errors.OpError, ValueError) as error:
        sys.exit(" ".join(str(error).split()))
    np.savez(target, **arrays)


if __name__ == "__main__":
    convert(*sys.argv[1:])

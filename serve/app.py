"""`serve.app:build`, the import path of serve/config.yaml: arguments -> a Ray Serve application."""

# Without `from __future__ import annotations`: Serve reads the type of `args`, and would find a string.
import os

from ray import serve
from ray.serve import Application

from serve.deployments import PredictionService
from serve.schemas import ServeArgs
from yt8m_ray.data.remote import is_remote

MODEL_VARIABLE = "YT8M_MODEL"


def build(args: ServeArgs) -> Application:
    """Returns the application; replicas, CPUs, queues and batch limits are the config file's.

    Raises:
        ValueError: no model is named.
    """
    model = args.model or os.environ.get(MODEL_VARIABLE)
    if not model:
        raise ValueError(
            f"model: name the folder or tar of a bundle in args.model or in the environment variable {MODEL_VARIABLE}"
        )
    deployment = serve.deployment(name="PredictionService")(serve.ingress()(PredictionService))
    # A replica has another working directory; an object store has none.
    place = model if is_remote(model) else os.path.abspath(model)
    return deployment.bind(place, args.num_threads)

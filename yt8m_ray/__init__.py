"""Large-scale video classification on YouTube-8M with Ray: data, models, training, quantized ensembles and serving."""

__version__ = "0.1.0"

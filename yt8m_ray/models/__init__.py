"""Models: frames in, logits out. Importing this package registers every family."""

from __future__ import annotations

from yt8m_ray.components import MODELS
from yt8m_ray.models import cnn as cnn
from yt8m_ray.models import dbof as dbof
from yt8m_ray.models import deep_combine_chain as deep_combine_chain
from yt8m_ray.models import frame_attention as frame_attention
from yt8m_ray.models import gru as gru
from yt8m_ray.models import logit_moe as logit_moe
from yt8m_ray.models import lstm as lstm
from yt8m_ray.models import mean_frame as mean_frame
from yt8m_ray.models import monn as monn
from yt8m_ray.models import netfv as netfv
from yt8m_ray.models import netvlad as netvlad
from yt8m_ray.models import nextvlad as nextvlad
from yt8m_ray.models import seventh_place_2019 as seventh_place_2019
from yt8m_ray.models import soft_dbof as soft_dbof
from yt8m_ray.models.base import Model, build_empty_model, build_model, build_model_for_weights
from yt8m_ray.models.layers import mixture_logits, set_batch_norm_sync

__all__ = [
    "MODELS",
    "Model",
    "build_empty_model",
    "build_model",
    "build_model_for_weights",
    "mixture_logits",
    "set_batch_norm_sync",
]

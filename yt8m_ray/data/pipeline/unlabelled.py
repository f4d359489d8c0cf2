"""What is said of videos without labels where labels are needed: an error where none has any, else a warning."""

from __future__ import annotations

import logging

from yt8m_ray.data.errors import UNLABELLED
from yt8m_ray.data.pipeline.read_position import Position

logger = logging.getLogger(__name__)


def check_labelled(key: str, position: Position, *, warns: bool = True) -> None:
    """Checks that one of the videos that were read has labels, and warns how many have none.

    Args:
        key: Where they come from (`data.validation`).
        position: What was read, with labels required.
        warns: Whether to warn; of several workers one does.

    Raises:
        ValueError: none has.
    """
    num_unlabelled = position.rejected[UNLABELLED]
    num_labelled = position.num_done - position.num_rejected
    if num_unlabelled and not num_labelled:
        raise ValueError(unlabelled_message(key, num_unlabelled))
    if num_unlabelled and warns:
        num_videos = num_labelled + num_unlabelled
        logger.warning("%s: %d of %d videos have no labels and are left out", key, num_unlabelled, num_videos)


def unlabelled_message(key: str, num_videos: int) -> str:
    """Returns what to say where videos need labels and none has any."""
    return f"{key}: none of the {num_videos} videos has labels; there is nothing to learn from, or to score"

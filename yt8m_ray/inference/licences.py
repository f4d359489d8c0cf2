"""Whose work is in a bundle, and under which licences."""

from __future__ import annotations

from yt8m_ray.data.vocabulary import Vocabulary
from yt8m_ray.inference.bundle_document import VOCABULARY_FILE, Attribution, Licence

YOUTUBE_8M = Attribution(
    part=VOCABULARY_FILE,
    title="YouTube-8M vocabulary",
    holder="Google Inc.",
    licence="CC-BY-4.0",
    source="https://research.google.com/youtube8m/",
)


def licence_of(weights: str, vocabulary: Vocabulary) -> Licence:
    """Returns the licences of a bundle; names of classes that are the published ones are attributed.

    Args:
        weights: SPDX expression for the weights.
        vocabulary: The bundle's.
    """
    published = Vocabulary.load()
    shared = range(min(len(published), len(vocabulary)))
    is_published = any(vocabulary.name(index) and vocabulary.name(index) == published.name(index) for index in shared)
    return Licence(weights=weights, attributions=(YOUTUBE_8M,) if is_published else ())

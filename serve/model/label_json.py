"""Labels and timelines as JSON text."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import to_json

from serve.model.batching import Answer
from yt8m_ray.data.labels.vocabulary import Vocabulary

WINDOW_S = 5  # seconds, which are frames, of a window of a timeline


class LabelTexts:
    """The ids, names and verticals of all classes of a vocabulary, as JSON."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        # Written once for each model: an answer then costs hardly more than its scores.
        self._names = [_names(vocabulary, class_id) for class_id in range(len(vocabulary))]

    def labels(self, answer: Answer, *, num_labels: int, names: bool) -> str:
        """Returns the best labels of a video as a list."""
        # One call for all scores: most of its cost is the call.
        scores = dump(answer.scores[:num_labels])[1:-1].split(",")
        pairs = zip(answer.class_ids[:num_labels], scores, strict=True) if num_labels else ()
        if names:
            texts = [f'{{"class_id":{class_id},"score":{score}{self._names[class_id]}' for class_id, score in pairs]
        else:
            texts = [f'{{"class_id":{class_id},"score":{score}}}' for class_id, score in pairs]
        return f"[{','.join(texts)}]"


def count_labels(answer: Answer, threshold: float) -> int:
    """Returns how many labels have at least that score."""
    return next((index for index, score in enumerate(answer.scores) if score < threshold), len(answer.scores))


def timeline_text(answer: Answer, scores: Sequence[Sequence[float]], num_labels: int) -> str:
    """Returns a Timeline: the scores of the video's labels in each window."""
    kept = [each[:num_labels] for each in scores]
    return dump({"window_s": WINDOW_S, "class_ids": answer.class_ids[:num_labels], "scores": kept})


def dump(value: object) -> str:
    """Returns compact JSON, with null for NaN and infinities."""
    return to_json(value, inf_nan_mode="null").decode()


def _names(vocabulary: Vocabulary, class_id: int) -> str:
    verticals = vocabulary.verticals(class_id)
    names = {
        "knowledge_graph_id": vocabulary.knowledge_graph_id(class_id),
        "name": vocabulary.name(class_id),
        "vertical": verticals[0] if verticals else None,
    }
    return f",{dump(names)[1:]}"

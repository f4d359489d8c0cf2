from __future__ import annotations

import json
import math
from typing import Any

import pytest

from serve.model.batching import Answer
from serve.model.label_json import LabelTexts, count_labels, timeline_text
from yt8m_ray.data.labels.vocabulary import Vocabulary

VOCABULARY = Vocabulary.load()
TEXTS = LabelTexts(VOCABULARY)
# 3 has a name of two words, 2570 one outside of ASCII; 3860 is among the last.
ANSWER = Answer([3, 2570, 3860], [0.9, 1e-7, 0.0], queue_s=0.0, model_s=0.0)


def expected(class_id: int, score: float | None) -> dict[str, Any]:
    return {
        "class_id": class_id,
        "score": score,
        "knowledge_graph_id": VOCABULARY.knowledge_graph_id(class_id),
        "name": VOCABULARY.name(class_id),
        "vertical": next(iter(VOCABULARY.verticals(class_id)), None),
    }


def test_a_label_says_what_the_vocabulary_says_of_its_class() -> None:
    found = json.loads(TEXTS.labels(ANSWER, num_labels=3, names=True))
    assert found == [expected(3, 0.9), expected(2570, 1e-7), expected(3860, 0.0)]


def test_every_class_can_be_answered() -> None:
    class_ids = list(range(len(VOCABULARY)))
    answer = Answer(class_ids, [0.5] * len(class_ids), queue_s=0.0, model_s=0.0)
    found = json.loads(TEXTS.labels(answer, num_labels=len(class_ids), names=True))
    assert found == [expected(class_id, 0.5) for class_id in class_ids]


def test_names_can_be_left_out() -> None:
    found = json.loads(TEXTS.labels(ANSWER, num_labels=2, names=False))
    assert found == [{"class_id": 3, "score": 0.9}, {"class_id": 2570, "score": 1e-7}]


@pytest.mark.parametrize(("threshold", "count"), [(0.0, 3), (1e-7, 2), (0.5, 1), (0.9, 1), (0.91, 0), (1.0, 0)])
def test_labels_below_the_threshold_are_left_out(threshold: float, count: int) -> None:
    assert count_labels(ANSWER, threshold) == count
    assert len(json.loads(TEXTS.labels(ANSWER, num_labels=count, names=True))) == count


def test_what_is_no_number_is_null() -> None:
    answer = Answer([1, 2], [math.nan, math.inf], queue_s=0.0, model_s=0.0)
    assert [label["score"] for label in json.loads(TEXTS.labels(answer, num_labels=2, names=True))] == [None, None]


def test_a_timeline_has_the_scores_of_the_labels_alone() -> None:
    found = json.loads(timeline_text(ANSWER, [[0.9, 0.2, 0.1], [0.8, 0.3, 0.2]], 2))
    assert found == {"window_s": 5, "class_ids": [3, 2570], "scores": [[0.9, 0.2], [0.8, 0.3]]}

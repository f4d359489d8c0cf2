"""The peer of merge.py: prediction files merged by a loop in plain Python, as one writes it for a single evening.

Line by line, a dictionary of scores a video, a sort, and the numbers through `float()` and `"%g"`. Nothing is checked.
Lines of all files but the first are kept in dictionaries, as text, so that their order may be any.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

HEADER = "VideoId,LabelConfidencePairs\n"
FLOOR = 1e-4


def merge_plainly(
    paths: Sequence[str], weights: Sequence[float], output: str, *, top_k: int = 20, geometric: bool = False
) -> int:
    """Writes the weighted means of all videos and returns how many there are; weights have the sum 1."""
    combine = geometric_mean if geometric else arithmetic_mean
    others = [dict(read_lines(path)) for path in paths[1:]]
    num_videos = 0
    with open(output, "w", encoding="utf-8") as file:
        file.write(HEADER)
        for video_id, texts in join_lines(paths[0], others):
            present = [(weight, text) for weight, text in zip(weights, texts, strict=True) if text is not None]
            total = 1.0 if len(present) == len(paths) else sum(weight for weight, _ in present)
            means = combine([(weight / total, parse_pairs(text)) for weight, text in present])
            best = sorted(means.items(), key=lambda pair: (-pair[1], pair[0]))[:top_k]
            pairs = " ".join(f"{class_id} {score:g}" for class_id, score in best)
            file.write(f"{video_id},{pairs}\n")
            num_videos += 1
    return num_videos


def read_lines(path: str) -> Iterator[tuple[str, str]]:
    """Yields the id of each video and what follows it."""
    with open(path, encoding="utf-8") as file:
        next(file)
        for line in file:
            video_id, _, text = line.rstrip("\n").partition(",")
            yield video_id, text


def join_lines(path: str, others: list[dict[str, str]]) -> Iterator[tuple[str, list[str | None]]]:
    """Yields each video with its texts, None where a file has none; videos of later files come last."""
    for video_id, text in read_lines(path):
        yield video_id, [text, *(lines.pop(video_id, None) for lines in others)]
    for index, lines in enumerate(others):
        for video_id, text in lines.items():
            later = [other.pop(video_id, None) for other in others[index + 1 :]]
            yield video_id, [None] * (index + 1) + [text, *later]


def parse_pairs(text: str) -> dict[int, float]:
    words = text.split()
    return {int(words[place]): float(words[place + 1]) for place in range(0, len(words), 2)}


def arithmetic_mean(files: list[tuple[float, dict[int, float]]]) -> dict[int, float]:
    means: dict[int, float] = {}
    for weight, scores in files:
        for class_id, score in scores.items():
            means[class_id] = means.get(class_id, 0.0) + weight * score
    return means


def geometric_mean(files: list[tuple[float, dict[int, float]]]) -> dict[int, float]:
    logarithms: dict[int, float] = {}
    for weight, scores in files:
        for class_id, score in scores.items():
            above_floor = math.log(max(score, FLOOR) / FLOOR)
            logarithms[class_id] = logarithms.get(class_id, 0.0) + weight * above_floor
    return {class_id: FLOOR * math.exp(value) for class_id, value in logarithms.items()}

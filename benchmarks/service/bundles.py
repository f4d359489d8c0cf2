"""Bundles of random weights, videos to ask about, and what each bundle answers to each of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.load import Question, request
from yt8m_ray.config.quantization import TransformConfig
from yt8m_ray.data.format.example import encode_sequence_example
from yt8m_ray.data.format.features import FeatureSpec, VideoRow
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.inference.bundle.document import BundleDocument, MemberEntry, Provenance, Quality
from yt8m_ray.inference.bundle.folder import write_bundle
from yt8m_ray.inference.bundle.input_schema import InputSchema
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.inference.quantization.quantize import channel_axes, quantize_state
from yt8m_ray.models import build_model
from yt8m_ray.schema import FRAME_FEATURES, NUM_CLASSES_2018

TOLERANCE = 1e-5
TOP_K = 20
BINARY = {"content-type": "application/octet-stream"}
SPEC = FeatureSpec(FRAME_FEATURES, num_classes=NUM_CLASSES_2018)

MODELS: dict[str, dict[str, Any]] = {
    "netvlad": {
        "name": "netvlad",
        "num_clusters": 256,
        "hidden_dim": 1024,
        "head": {"name": "moe", "num_mixtures": 2},
    },
    "moe": {"name": "moe", "num_mixtures": 2},
    "logistic": {"name": "logistic"},
}
"""By the name that the benchmarks' options use."""


def write_random_bundle(output: Path, kind: str, *, seed: int) -> Path:
    """Writes a bundle of one int8 model whose answers differ from video to video and from seed to seed."""
    torch.manual_seed(seed)
    model = build_model(MODELS[kind], feature_sizes=list(SPEC.sizes.values()), num_classes=SPEC.num_classes)
    stored = quantize_state(model.state_dict(), channel_axes(model))
    entry = MemberEntry(
        model=MODELS[kind],
        weight=1.0,
        checkpoint="none",
        gap_before=0,
        gap_after=0,
        float32_bytes=sum(tensor.nbytes for tensor in model.state_dict().values()),
        stored_bytes=sum(tensor.nbytes for tensor in stored.values()),
    )
    document = BundleDocument(
        input=InputSchema.of(SPEC, "l2"),
        num_classes=SPEC.num_classes,
        members=[entry],
        transform=TransformConfig(name="int8"),
        quality=Quality(split=[], num_videos=0, gap_before=0, gap_after=0),
        provenance=Provenance(created="now", package_version="none"),
    )
    return write_bundle(output, document, [stored], Vocabulary.load())


def write_damaged_bundle(output: Path, whole: Path) -> Path:
    """Writes a copy of a bundle, one byte of whose largest file has changed."""
    for source in sorted(path for path in whole.rglob("*") if path.is_file()):
        target = output / source.relative_to(whole)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    largest = max((path for path in output.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    return output


def make_videos(count: int, num_frames: int, *, seed: int = 0) -> list[VideoRow]:
    """Returns videos whose means differ too: noise alone would have the same mean for all."""
    rng = np.random.default_rng(seed)
    videos = []
    for index in range(count):
        middle = rng.normal(128, 40, SPEC.dim)
        frames = np.clip(rng.normal(middle, 30, (num_frames, SPEC.dim)), 0, 255).astype(np.uint8)
        videos.append(VideoRow(f"v{index}", frames, np.empty(0, np.int32)))
    return videos


def to_record(video: VideoRow) -> bytes:
    """Returns a video as a SequenceExample."""
    rgb = FRAME_FEATURES["rgb"]
    sequences = {"rgb": video.frames[:, :rgb], "audio": video.frames[:, rgb:]}
    return encode_sequence_example({"id": [video.video_id.encode()]}, sequences)


@dataclass(frozen=True)
class Known:
    """What one model answers to one video: a score a class, and the best ones in order."""

    scores: list[float]
    best: list[float]

    def is_right(self, class_ids: Sequence[int], scores: Sequence[float]) -> bool:
        """Returns whether these are the best classes; equal ones may change places."""
        if len(class_ids) != TOP_K or len(set(class_ids)) != TOP_K or len(scores) != TOP_K:
            return False
        return all(
            abs(score - best) <= TOLERANCE and abs(score - self.scores[class_id]) <= TOLERANCE
            for class_id, score, best in zip(class_ids, scores, self.best, strict=True)
        )


def know(predictor: Predictor, videos: Sequence[VideoRow]) -> list[Known]:
    """Returns what a predictor answers to each video, asked alone."""
    known = []
    for video in videos:
        best = predictor.predict([video], predictor.spec.num_classes)
        scores = np.zeros(predictor.spec.num_classes)
        scores[best.class_ids[0].numpy()] = best.scores[0].numpy()
        known.append(Known(scores.tolist(), best.scores[0, :TOP_K].tolist()))
    return known


def record_questions(videos: Sequence[VideoRow], bundles: Sequence[Path]) -> list[Question]:
    """Returns a binary request for each video, right if answered as the bundle does whose version the answer names."""
    predictors = [Predictor.from_path(bundle) for bundle in bundles]
    known = {predictor.version: know(predictor, videos) for predictor in predictors}
    return [
        Question(request("POST", "/v1/predict", to_record(video), BINARY), _checker(known, index))
        for index, video in enumerate(videos)
    ]


def _checker(known: Mapping[str, Sequence[Known]], index: int) -> Callable[[bytes], bool]:
    def is_right(body: bytes) -> bool:
        answer = json.loads(body)
        labels = answer["predictions"][0]["labels"]
        expected = known[answer["model_version"]][index]
        return expected.is_right([label["class_id"] for label in labels], [label["score"] for label in labels])

    return is_right


def mlflow_questions(videos: Sequence[VideoRow], bundle: Path) -> list[Question]:
    """Returns a request to `mlflow models serve` for each video: its frames as base64 text, in JSON."""
    questions = []
    for video, known in zip(videos, know(Predictor.from_path(bundle), videos), strict=True):
        rgb, audio = np.split(video.frames, [FRAME_FEATURES["rgb"]], axis=1)
        frames = {name: base64.b64encode(part.tobytes()).decode() for name, part in (("rgb", rgb), ("audio", audio))}
        body = {"dataframe_records": [{"video_id": video.video_id, **frames}], "params": {"top_k": TOP_K}}

        def is_right(body: bytes, known: Known = known) -> bool:
            (row,) = json.loads(body)["predictions"]
            return known.is_right(row["class_ids"], row["scores"])

        data = request("POST", "/invocations", json.dumps(body).encode(), {"content-type": "application/json"})
        questions.append(Question(data, is_right))
    return questions

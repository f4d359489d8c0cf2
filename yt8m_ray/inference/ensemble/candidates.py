"""What the candidates of an export say of the videos that it chooses on, and the transforms that follow from it."""

from __future__ import annotations

import logging

import torch

from yt8m_ray.artifacts.checkpoint import load_config, load_model
from yt8m_ray.config.data import DataConfig
from yt8m_ray.config.export import ExportConfig
from yt8m_ray.data.pipeline.batches import batches_of, to_batch
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.inference.batch.worker_pool import map_videos
from yt8m_ray.inference.bundle.choice_reports import TransformReport, Trial, TriedMember
from yt8m_ray.inference.ensemble.choose_members import check_labelled, smallest_within
from yt8m_ray.inference.ensemble.member_scores import Array, MemberScores
from yt8m_ray.inference.ensemble.members import load_member
from yt8m_ray.inference.ensemble.weights import equal_shares
from yt8m_ray.inference.quantization.quantize import channel_axes, stored_bytes

logger = logging.getLogger(__name__)


class BlockScorer:
    """Finds what the candidates, with the weights as stored, say of the videos of a block: what each worker runs.

    Args:
        config: The export; its checkpoints lie at the same place on every node.
        device: Where the models run.
    """

    def __init__(self, config: ExportConfig, *, device: str) -> None:
        self._config = config
        self._data = load_config(config.members[0].checkpoint).data
        self._device = device
        # One after the other: their weights as trained are large, and nothing here reads them.
        self._models = [load_member(config, index, device=device).restored for index in range(len(config.members))]

    def __call__(self, videos: PackedVideos) -> list[MemberScores]:
        """Returns what they say of the block's batches, in order."""
        parts = []
        for part in batches_of([videos], batch_size=self._config.data.batch_size):
            batch = to_batch(part, spec=self._data.spec, normalize=self._data.normalize, device=self._device)
            assert batch.labels is not None
            with torch.inference_mode():
                logits = [model(batch.frames, batch.num_frames) for model in self._models]
                top_k = self._config.weighting.top_k
                parts.append(MemberScores.from_logits(logits, batch.labels, batch.video_ids, top_k=top_k))
        return parts


def score_members(config: ExportConfig, data: DataConfig, *, num_workers: int) -> MemberScores:
    """Returns what the candidates say of all videos of `config.weighting.shards`.

    Args:
        config: From `resolve`.
        data: How its members read.
        num_workers: Processes.

    Raises:
        ValueError, OSError: a shard cannot be read, or holds no video.
    """
    shards = config.weighting.shards
    assert isinstance(shards, list)
    answers = map_videos(
        shards,
        data.spec,
        BlockScorer,
        (config,),
        num_workers=num_workers,
        options=data.read_options,
        key="weighting.shards",
    )
    parts = [part for answer in answers for part in answer.result]
    if not parts:
        raise ValueError("weighting.shards: the shards hold no video")
    return MemberScores.concatenate(parts)


def choose_transforms(config: ExportConfig, *, num_workers: int) -> tuple[ExportConfig, TransformReport, Array]:
    """Measures the ways in which each member may be stored, and takes the smallest one that loses little enough.

    One member after the other, so that no more than one is in memory in all its ways.

    Returns:
        `config` with a transform for each member, what was measured, and the keys of the videos that it was measured
        on, uint64 [N, 2].

    Raises:
        ValueError, OSError: a shard cannot be read, none of its videos has a label, or a way cannot hold the weights.
    """
    data = load_config(config.members[0].checkpoint).data
    tried = {}
    for index in [index for index, member in enumerate(config.members) if member.transform is None]:
        ways = config.trials(index)
        logger.info("members.%d: trying %s", index, ", ".join(str(way.transform) for way in ways.members))
        scores = score_members(ways, data, num_workers=num_workers)
        check_labelled(scores)
        tried[index] = _tried(config, index, scores)
        taken, limit = tried[index].transform, config.transform.max_gap_loss
        logger.info("members.%d: %s is the smallest that loses at most %g of GAP", index, taken, limit)
    names = [tried[index].transform if index in tried else each.transform for index, each in enumerate(config.members)]
    shards = config.weighting.shards
    assert isinstance(shards, list)
    report = TransformReport(
        shards=shards,
        num_videos=len(scores),
        max_gap_loss=config.transform.max_gap_loss,
        members=list(tried.values()),
    )
    return config.with_transforms(names), report, scores.video_keys


def _tried(config: ExportConfig, index: int, scores: MemberScores) -> TriedMember:
    """Returns what the ways of storing a member cost, and the one to take.

    Args:
        config: The export.
        index: Of the member.
        scores: What it says, as stored in each way of `config.trials(index)`.
    """
    member = config.members[index]
    model, trained = load_model(member.checkpoint, ema=member.ema)
    state, axes = model.state_dict(), channel_axes(model)
    trials = []
    for number, way in enumerate(config.trials(index).members):
        transform = config.transform_of(way)
        gap = scores.gap(equal_shares([number], scores.num_members))
        trials.append(Trial(transform=transform.name, gap=gap, num_bytes=stored_bytes(state, axes, transform)))
    return TriedMember(
        name=trained.model.name,
        checkpoint=member.checkpoint,
        ema=member.ema,
        transform=smallest_within(trials, config.transform.max_gap_loss).transform,
        trials=trials,
    )

"""What the candidates of an export say of the videos that it chooses on, and the transforms that follow from it."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence

import torch

from yt8m_ray.cluster import Shared
from yt8m_ray.config.data import DataConfig
from yt8m_ray.config.export import ExportConfig
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.inference.batch.worker_pool import batches_on_device, map_videos
from yt8m_ray.inference.bundle.choice_reports import TransformReport, Trial, TriedMember
from yt8m_ray.inference.ensemble.choose_members import check_labelled, smallest_within
from yt8m_ray.inference.ensemble.member_scores import Array, MemberScores
from yt8m_ray.inference.ensemble.members import Member, StoredModel
from yt8m_ray.inference.ensemble.weights import equal_shares
from yt8m_ray.models.ensemble import Ensemble

logger = logging.getLogger(__name__)


def restore_ensemble(stored: Sequence[Shared[StoredModel]], weights: Sequence[float], *, device: str) -> Ensemble:
    """Returns the ensemble in a worker, with the weights as stored, in eval mode."""
    # One after the other, so that no more than one model has its weights in memory twice.
    models = [each.get().restore(device) for each in stored]
    return Ensemble(models, weights).to(device).eval()


def _score(
    ensemble: Ensemble, videos: PackedVideos, *, data: DataConfig, batch_size: int, top_k: int
) -> list[MemberScores]:
    parts = []
    for batch in batches_on_device(videos, data, ensemble.log_weights.device, batch_size=batch_size):
        assert batch.labels is not None
        with torch.inference_mode():
            logits = [model(batch.frames, batch.num_frames) for model in ensemble.members]
            parts.append(MemberScores.from_logits(logits, batch.labels, batch.video_ids, top_k=top_k))
    return parts


def score_members(config: ExportConfig, members: Sequence[Member], *, num_workers: int) -> MemberScores:
    """Returns what members, with their weights as stored, say of all videos of `config.weighting.shards`."""
    data, shards = members[0].config.data, config.weighting.shards
    assert isinstance(shards, list)
    stored, equal = [Shared(member.stored) for member in members], [1 / len(members)] * len(members)
    answers = map_videos(
        shards,
        data.spec,
        functools.partial(restore_ensemble, stored, equal),
        functools.partial(_score, data=data, batch_size=config.data.batch_size, top_k=config.weighting.top_k),
        num_workers=num_workers,
        options=data.read_options,
        key="weighting.shards",
    )
    parts = [part for answer in answers for part in answer.result]
    if not parts:
        raise ValueError("weighting.shards: the shards hold no video")
    return MemberScores.concatenate(parts)


def choose_transforms(
    config: ExportConfig, members: Sequence[Member], *, num_workers: int
) -> tuple[ExportConfig, list[Member], TransformReport, Array]:
    """Takes the smallest way to store each member that loses little enough; a given transform stays.

    Returns (`config` with a transform for each member, the members as they are to be stored, what was measured, the
    keys of the videos that it was measured on, uint64 [N, 2]). ValueError where no video has a label, or a way cannot
    hold the weights.
    """
    limit, shards = config.transform.max_gap_loss, config.weighting.shards
    assert isinstance(shards, list)
    names, chosen, tried = [asked.transform for asked in config.members], list(members), []
    # One member after the other, so that no more than one is in memory in all its ways.
    for index, asked in enumerate(config.members):
        if asked.transform is not None:
            continue
        transforms = [config.transform_of(way) for way in config.trials(index).members]
        logger.info("members.%d: trying %s", index, ", ".join(transform.name for transform in transforms))
        ways = [dataclasses.replace(members[index], transform=transform) for transform in transforms]
        scores = score_members(config, ways, num_workers=num_workers)
        check_labelled(scores)
        gaps = [scores.gap(equal_shares([number], len(ways))) for number in range(len(ways))]
        trials = [
            Trial(transform=way.transform.name, gap=gap, num_bytes=way.stored.num_bytes)
            for way, gap in zip(ways, gaps, strict=True)
        ]
        taken = smallest_within(trials, limit)
        names[index], chosen[index] = taken.transform, ways[trials.index(taken)]
        name = members[index].config.model.name
        tried.append(
            TriedMember(name=name, checkpoint=asked.checkpoint, ema=asked.ema, transform=taken.transform, trials=trials)
        )
        logger.info("members.%d: %s is the smallest that loses at most %g of GAP", index, taken.transform, limit)
    report = TransformReport(shards=shards, num_videos=len(scores), max_gap_loss=limit, members=tried)
    return config.with_transforms(names), chosen, report, scores.video_keys

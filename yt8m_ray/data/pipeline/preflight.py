"""The first records of a split, read before anything starts: what does not fit a model is found in seconds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from yt8m_ray.data.errors import CorruptRecordError, RecordError
from yt8m_ray.data.format.example import decode_record
from yt8m_ray.data.format.features import FeatureSpec, VideoRow, to_row
from yt8m_ray.data.format.tfrecord import read_payloads
from yt8m_ray.data.pipeline.read_options import ReadOptions
from yt8m_ray.data.pipeline.read_position import unlabelled_message
from yt8m_ray.data.storage.filesystem import open_stream

MOST_SHARDS = 8
MOST_RECORDS = 64  # of a shard, where the first ones do not decide


def check_first_videos(shards: Sequence[str], spec: FeatureSpec, options: ReadOptions, *, key: str) -> None:
    """Checks that the shards hold a video that fits `spec`, with labels where they are required.

    Args:
        key: Where the shards come from (`data.train`), for messages.

    Raises:
        CorruptRecordError: the first record, where bad ones fail; or no record can be read, or has the features.
        ValueError: no video has labels.
    """
    # Usually one record decides. More, of shards spread over the list, are read where bad ones are skipped or labels
    # are missing; then it fails only where these are all records, or none of them has the features.
    sample = {shards[index * len(shards) // MOST_SHARDS] for index in range(MOST_SHARDS)}
    is_whole = sample.issuperset(shards)
    errors: list[CorruptRecordError] = []
    num_videos = 0
    for shard in sorted(sample, key=shards.index):
        num_records = 0
        for row in _first_videos(shard, spec, options, errors):
            if row is not None and (row.labels is not None or options.labels != "required"):
                return
            num_records += 1
            num_videos += row is not None
        is_whole &= num_records <= MOST_RECORDS
    if num_videos and is_whole:
        raise ValueError(unlabelled_message(key, num_videos))
    if num_videos or not errors:
        return
    # Records that all lack the same are of another level or have other features: no later one will be better.
    if is_whole or {(error.reason, error.cause) for error in errors} == {(errors[0].reason, "parse")}:
        raise errors[0]


def _first_videos(
    shard: str, spec: FeatureSpec, options: ReadOptions, errors: list[CorruptRecordError]
) -> Iterator[VideoRow | None]:
    """Yields the videos of a shard's first records, and None for a bad one, whose error is raised or added."""

    def reject(error: CorruptRecordError) -> None:
        if options.on_corrupt == "fail":
            raise error
        errors.append(error)

    with open_stream(shard) as stream:
        payloads = read_payloads(stream, path=shard, verify_crc=options.verify_checksums, on_corrupt=reject)
        for record, offset, payload in itertools.islice(payloads, MOST_RECORDS + 1):
            try:
                yield to_row(decode_record(payload), spec, labelled=options.labels != "ignored")
            except RecordError as error:
                reject(CorruptRecordError(shard, record, offset, error.reason, error.cause))
                yield None

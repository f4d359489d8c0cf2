"""The peer of reader.py, run by a Python that has TensorFlow: writes the shards, and reads them with tf.data.

`write` makes shards with TensorFlow's own writer; `read` prints one JSON line with videos, cpu_s and wall_s. Readers:
`lean` keeps uint8 and pads to [128, 300, 1152]; `starter` does what the starter code's reader computes (dequantized
float32 frames, padded to 300); `batched` parses whole batches of video-level Examples, as the starter code does.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import tensorflow as tf

BATCH_SIZE = 128
MAX_FRAMES = 300
SIZES = {"rgb": 1024, "audio": 128}


def _bytes(values: list[bytes]) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def _context(rng: np.random.Generator, index: int) -> dict[str, tf.train.Feature]:
    labels = sorted(rng.choice(3862, size=1 + rng.poisson(2), replace=False).tolist())
    return {
        "id": _bytes([f"{index:04x}".encode()]),
        "labels": tf.train.Feature(int64_list=tf.train.Int64List(value=labels)),
    }


def frame_record(rng: np.random.Generator, index: int) -> bytes:
    num_frames = int(rng.integers(120, 301))
    lists = {
        name: tf.train.FeatureList(
            feature=[_bytes([row.tobytes()]) for row in rng.integers(0, 256, (num_frames, size), np.uint8)]
        )
        for name, size in SIZES.items()
    }
    return tf.train.SequenceExample(
        context=tf.train.Features(feature=_context(rng, index)),
        feature_lists=tf.train.FeatureLists(feature_list=lists),
    ).SerializeToString()


def video_record(rng: np.random.Generator, index: int) -> bytes:
    means = {
        f"mean_{name}": tf.train.Feature(
            float_list=tf.train.FloatList(value=rng.standard_normal(size, np.float32).tolist())
        )
        for name, size in SIZES.items()
    }
    return tf.train.Example(features=tf.train.Features(feature={**_context(rng, index), **means})).SerializeToString()


def write(folder: str, level: str, num_videos: int, num_shards: int) -> None:
    rng = np.random.default_rng(0)
    make = frame_record if level == "frame" else video_record
    for shard in range(num_shards):
        with tf.io.TFRecordWriter(f"{folder}/{level}{shard:04d}.tfrecord") as writer:
            for index in range(shard * num_videos // num_shards, (shard + 1) * num_videos // num_shards):
                writer.write(make(rng, index))


def _sequence(record: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor], tf.Tensor]:
    context, lists = tf.io.parse_single_sequence_example(
        record,
        context_features={"id": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.VarLenFeature(tf.int64)},
        sequence_features={name: tf.io.FixedLenSequenceFeature([], tf.string) for name in SIZES},
    )
    return context["id"], lists, context["labels"]


def lean(record: tf.Tensor) -> tuple[tf.Tensor, ...]:
    video_id, lists, labels = _sequence(record)
    frames = tf.concat([tf.io.decode_raw(lists[name], tf.uint8, fixed_length=None) for name in SIZES], 1)
    frames = tf.ensure_shape(frames[:MAX_FRAMES], [None, sum(SIZES.values())])
    return video_id, frames, tf.shape(frames)[0], tf.sparse.to_dense(labels)


def starter(record: tf.Tensor) -> tuple[tf.Tensor, ...]:
    video_id, lists, labels = _sequence(record)
    features = []
    for name, size in SIZES.items():
        stored = tf.reshape(tf.cast(tf.io.decode_raw(lists[name], tf.uint8), tf.float32), [-1, size])
        values = stored * (4.0 / 255.0) + (4.0 / 512.0 - 2.0)
        num_frames = tf.minimum(tf.shape(values)[0], MAX_FRAMES)
        values = values[:MAX_FRAMES]
        features.append(tf.pad(values, [[0, MAX_FRAMES - num_frames], [0, 0]]))
    dense = tf.sparse.to_indicator(labels, 3862)
    return video_id, tf.ensure_shape(tf.concat(features, 1), [MAX_FRAMES, 1152]), num_frames, dense


def batched(records: tf.Tensor) -> tuple[tf.Tensor, ...]:
    features = tf.io.parse_example(
        records,
        {
            "id": tf.io.FixedLenFeature([], tf.string),
            "labels": tf.io.VarLenFeature(tf.int64),
            **{f"mean_{name}": tf.io.FixedLenFeature([size], tf.float32) for name, size in SIZES.items()},
        },
    )
    means = tf.concat([features[f"mean_{name}"] for name in SIZES], 1)
    return features["id"], means, tf.sparse.to_indicator(features["labels"], 3862)


def dataset(paths: list[str], reader: str, num_threads: int) -> tf.data.Dataset:
    records = tf.data.TFRecordDataset(paths, buffer_size=1 << 20)
    parallel = num_threads if num_threads > 1 else None
    if reader == "batched":
        read = records.batch(1024).map(batched, num_parallel_calls=parallel)
    elif reader == "starter":
        read = records.map(starter, num_parallel_calls=parallel).batch(BATCH_SIZE)
    else:
        shapes = ([], [MAX_FRAMES, sum(SIZES.values())], [], [None])
        read = records.map(lean, num_parallel_calls=parallel).padded_batch(BATCH_SIZE, shapes)
    options = tf.data.Options()
    options.threading.private_threadpool_size = num_threads
    options.threading.max_intra_op_parallelism = 1
    return read.with_options(options)


def read(paths: list[str], reader: str, num_threads: int, passes: int) -> dict[str, float]:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(num_threads)
    best: dict[str, float] = {}
    for _ in range(passes + 1):  # the first one traces and warms up
        num_videos, cpu, wall = 0, time.process_time(), time.perf_counter()
        for batch in dataset(paths, reader, num_threads):
            num_videos += int(batch[0].shape[0])
        found = {"videos": num_videos, "cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        for name, value in found.items():
            best[name] = min(best.get(name, value), value)
    return best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=("write", "read"))
    parser.add_argument("folder")
    parser.add_argument("--level", choices=("frame", "video"), default="frame")
    parser.add_argument("--num-videos", type=int, default=2048)
    parser.add_argument("--num-shards", type=int, default=16)
    parser.add_argument("--reader", choices=("lean", "starter", "batched"), default="lean")
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--passes", type=int, default=3)
    options = parser.parse_args()
    if options.verb == "write":
        write(options.folder, options.level, options.num_videos, options.num_shards)
        print(json.dumps({"videos": options.num_videos}))
        return
    paths = sorted(map(str, pathlib.Path(options.folder).glob(f"{options.level}*.tfrecord")))
    print(json.dumps(read(paths, options.reader, options.num_threads, options.passes)))


if __name__ == "__main__":
    main()

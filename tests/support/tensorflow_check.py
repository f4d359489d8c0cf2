"""What TensorFlow writes and reads, for comparison; run by a Python that has TensorFlow and none of our packages.

    PYTHON tests/support/tensorflow_check.py write FOLDER          writes small shards of every kind
    PYTHON tests/support/tensorflow_check.py read OUTPUT SHARD...  lists every field of the shards' records
    PYTHON tests/support/tensorflow_check.py parse OUTPUT INPUT    the same for payloads in hex, null for a refused one

Lists are JSON: of each record its context by name, its sequences by name (a list of steps), and under "parsed" the two
once more from tf.io's own parsers. Values are {"bytes": [hex]}, {"float32": [...]}, {"int64": [...]}, or null.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

COMPRESSIONS = {"none": "", "gzip": "GZIP", "zlib": "ZLIB"}


def list_strings(values: Any) -> dict[str, Any]:
    return {"bytes": [bytes(value).hex() for value in values]}


def list_feature(feature: Any) -> dict[str, Any] | None:
    kind = feature.WhichOneof("kind")
    if kind is None:
        return None
    values = getattr(feature, kind).value
    return list_strings(values) if kind == "bytes_list" else {"float32" if kind == "float_list" else "int64": [*values]}


def parse_message(payload: bytes) -> tf.train.SequenceExample:
    """Returns what the protobuf of TensorFlow's own C++ reads; that of Python drops map entries with unknown fields."""
    parts = ["context", "feature_lists"]
    kinds = [tf.string, tf.string]
    _, values = tf.io.decode_proto([payload], "tensorflow.SequenceExample", parts, kinds, sanitize=True)
    message = tf.train.SequenceExample()
    for name, value in zip(parts, values, strict=True):
        getattr(message, name).ParseFromString(b"".join(value.numpy().ravel()))
    return message


def list_record(payload: bytes) -> dict[str, Any]:
    """Returns the fields of a record as protobuf reads them."""
    message = parse_message(payload)
    lists = message.feature_lists.feature_list
    return {
        "context": {name: list_feature(feature) for name, feature in message.context.feature.items()},
        "sequences": {name: [list_feature(step) for step in steps.feature] for name, steps in lists.items()},
    }


def parse_record(payload: bytes, record: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a regular record as tf.io reads them, which does not use protobuf."""
    kinds = {name: next(iter(values)) for name, values in record["context"].items()}
    context = {name: tf.io.VarLenFeature(tf.string if kind == "bytes" else kind) for name, kind in kinds.items()}
    lists: dict[str, Any] = {}
    if record["sequences"]:
        steps = {name: tf.io.FixedLenSequenceFeature([], tf.string) for name in record["sequences"]}
        found, lists = tf.io.parse_single_sequence_example(payload, context, steps)
    else:
        found = tf.io.parse_single_example(payload, context)
    values = {name: sparse.values.numpy() for name, sparse in found.items()}
    return {
        "context": {n: list_strings(v) if kinds[n] == "bytes" else {kinds[n]: v.tolist()} for n, v in values.items()},
        "sequences": {name: [list_strings([step]) for step in steps.numpy()] for name, steps in lists.items()},
    }


def read(output: str, shards: list[str]) -> None:
    listing: dict[str, list[Any]] = {}
    for shard in shards:
        compression = next((kind for name, kind in COMPRESSIONS.items() if f".{name}." in shard), "")
        listing[shard] = []
        for raw in tf.data.TFRecordDataset(shard, compression_type=compression):
            record = list_record(raw.numpy())
            listing[shard].append(record | {"parsed": parse_record(raw.numpy(), record)})
    Path(output).write_text(json.dumps(listing))


def parse(output: str, source: str) -> None:
    listing: list[Any] = []
    for payload in json.loads(Path(source).read_text()):
        try:
            listing.append(list_record(bytes.fromhex(payload)))
        except tf.errors.DataLossError:
            listing.append(None)
    Path(output).write_text(json.dumps(listing))


def to_feature(values: Any) -> tf.train.Feature:
    if isinstance(values, list):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if values.dtype == np.float32:
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def videos(level: str) -> Iterator[bytes]:
    """Yields three small videos; the second is without labels, the third without frames where there are any."""
    rng = np.random.default_rng(8)
    for index, num_frames in enumerate((3, 5, 0)):
        context = {
            "id" if index else "video_id": [f"v{index}é".encode()],
            "labels": np.array([] if index == 1 else [3861, 0, 17, 128], np.int64),
            "mean_rgb": rng.normal(size=8).astype(np.float32),
            "mean_audio": rng.normal(size=4).astype(np.float32),
        }
        features = tf.train.Features(feature={name: to_feature(values) for name, values in context.items()})
        if level == "video":
            yield tf.train.Example(features=features).SerializeToString(deterministic=True)
            continue
        lists = {
            name: tf.train.FeatureList(feature=[to_feature([rng.bytes(size)]) for _ in range(num_frames)])
            for name, size in (("rgb", 8), ("audio", 4))
        }
        message = tf.train.SequenceExample(context=features, feature_lists=tf.train.FeatureLists(feature_list=lists))
        yield message.SerializeToString(deterministic=True)


def write(folder: str) -> None:
    for level in ("video", "frame"):
        for name, kind in COMPRESSIONS.items():
            with tf.io.TFRecordWriter(f"{folder}/{level}.{name}.tfrecord", kind) as writer:
                for payload in videos(level):
                    writer.write(payload)


if __name__ == "__main__":
    command, target, *rest = sys.argv[1:]
    if command == "write":
        write(target)
    elif command == "read":
        read(target, rest)
    else:
        parse(target, *rest)

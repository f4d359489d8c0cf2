"""bundle.yaml: what it says, what it refuses, and bundles of version 1, one of which lies in tests/golden."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from yt8m_ray.artifacts.folder_manifest import folder_version, write_manifest
from yt8m_ray.config.document import to_yaml
from yt8m_ray.config.export import ExportConfig
from yt8m_ray.data.format.features import FeatureSpec, VideoRow
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.bundle.document import BundleDocument, licence_of, parse_document, read_document
from yt8m_ray.inference.bundle.folder import load_bundle
from yt8m_ray.inference.bundle.input_schema import InputSchema
from yt8m_ray.inference.predictor import Predictor

Write = Callable[..., Path]
RGB = {"name": "rgb", "dtype": "uint8", "size": 8}
VERSION_1 = Path(__file__).parents[3] / "golden" / "bundle_version_1"


def edited(bundle: Path, **changes: Any) -> Path:
    """Changes keys of a bundle's document, and seals the folder again."""
    tree = {**yaml.safe_load((bundle / "bundle.yaml").read_text()), **changes}
    (bundle / "bundle.yaml").write_text(yaml.safe_dump(tree))
    (bundle / "manifest.json").unlink()
    write_manifest(bundle, {"kind": "bundle"})
    return bundle


def test_the_input_is_described_for_whoever_reads_the_file(write_tiny_bundle: Write) -> None:
    tree = yaml.safe_load((write_tiny_bundle() / "bundle.yaml").read_text())

    assert tree["format_version"] == 2
    assert tree["input"]["level"] == "frame"
    assert tree["input"]["features"] == [
        {"name": "rgb", "dtype": "uint8", "size": 8},
        {"name": "audio", "dtype": "uint8", "size": 4},
    ]
    assert (tree["input"]["max_frames"], tree["input"]["normalize"]) == (6, "l2")
    assert "one a second" in tree["input"]["num_frames"] and "any text" in tree["input"]["video_id"]
    assert "migrated_from" not in tree


def test_a_bundle_of_before_may_say_more_of_its_transform_than_is_read(write_tiny_bundle: Write) -> None:
    transform = {"name": "float16", "min_elements": 100, "group_size": 32, "activations": "float32"}
    bundle = edited(write_tiny_bundle(), transform=transform)

    assert read_document(bundle).transform.model_dump().items() >= transform.items()


def test_means_are_described_as_floats() -> None:
    schema = InputSchema.of(FeatureSpec({"mean_rgb": 8}, num_classes=3), "none")

    assert (schema.level, schema.features[0].dtype) == ("video", "float32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": "video"}, r"input: level: video, but the features are rgb, audio"),
        ({"features": [{**RGB, "dtype": "float32"}]}, r"features\.0\.dtype: expected uint8, found float32"),
        ({"features": [RGB, {**RGB, "name": "num_frames"}]}, "input: features: 'num_frames' cannot be the name"),
        ({"features": [{**RGB, "name": ""}]}, "input: features: '' cannot be the name of a feature"),
        ({"features": [RGB, {**RGB, "name": "mean_audio"}]}, "rgb, mean_audio mix video level"),
        ({"features": [RGB, {**RGB}]}, "features: two have the same name among rgb"),
        ({"features": []}, r"input\.features"),
        ({"normalize": "l3"}, r"input\.normalize"),
    ],
)
def test_an_input_that_contradicts_itself_is_refused(
    write_tiny_bundle: Write, change: dict[str, Any], message: str
) -> None:
    bundle = write_tiny_bundle()
    given = yaml.safe_load((bundle / "bundle.yaml").read_text())["input"]

    with pytest.raises(ConfigError, match=message):
        read_document(edited(bundle, input={**given, **change}))


def test_sizes_are_those_of_the_tensors(write_tiny_bundle: Write) -> None:
    document = read_document(write_tiny_bundle())

    # Logistic regression on 12 values: 30 * 12 weights and 30 biases; int8 codes with one float32 scale a class.
    assert [entry.float32_bytes for entry in document.members] == [4 * (360 + 30)] * 2
    assert [entry.stored_bytes for entry in document.members] == [360 + 4 * (30 + 30)] * 2
    assert (document.float32_bytes, document.stored_bytes) == (3120, 1200)


def test_a_member_names_its_checkpoint_its_run_and_the_manifest_of_its_data(
    write_tiny_bundle: Write, tmp_path: Path
) -> None:
    (tmp_path / "shards.json").write_text("what jobs.inspect wrote")

    bundle = write_tiny_bundle(data={"manifest": str(tmp_path / "shards.json")})

    (first, _) = read_document(bundle).members
    assert first.checkpoint == str(tmp_path / "bundle-1")
    assert first.checkpoint_version == folder_version(tmp_path / "bundle-1")
    assert first.data_manifest is not None and first.data_manifest.path == str(tmp_path / "shards.json")
    assert first.data_manifest.sha256 == hashlib.sha256(b"what jobs.inspect wrote").hexdigest()


def test_a_manifest_that_is_gone_is_named_without_its_hash(write_tiny_bundle: Write, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(data={"manifest": str(tmp_path / "gone.json")})

    data_manifest = read_document(bundle).members[0].data_manifest
    assert data_manifest is not None and data_manifest.sha256 is None


def test_the_licence_is_the_exports_and_the_vocabulary_is_attributed(write_tiny_bundle: Write) -> None:
    licence = read_document(write_tiny_bundle(export={"licence": "cc-by-4.0 OR LicenseRef-Own"})).licence

    assert licence is not None and licence.weights == "CC-BY-4.0 OR LicenseRef-Own"
    (attribution,) = licence.attributions
    assert (attribution.part, attribution.holder, attribution.licence) == ("vocabulary.csv", "Google Inc.", "CC-BY-4.0")


def test_names_of_ones_own_are_not_attributed_to_others(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(
        "Index,TrainVideoCount,KnowledgeGraphId,Name,Vertical1,Vertical2,Vertical3\n0,5,,Mine,,,\n1,5,,Yours,,,\n"
    )

    assert licence_of("MIT", Vocabulary.load(tmp_path / "own.csv")).attributions == ()
    assert licence_of("MIT", Vocabulary.for_num_classes(5000)).attributions == ()  # no name is known


def test_a_licence_that_spdx_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="Value error, expected an SPDX expression"):
        ExportConfig.model_validate({"members": [{"checkpoint": "x"}], "output": "y", "licence": "free for all"})


def test_a_bundle_of_version_1_answers_as_it_did() -> None:
    predictor = Predictor.from_path(VERSION_1 / "bundle")
    expected = json.loads((VERSION_1 / "answers.json").read_text())
    rows = [
        VideoRow(f"v{index}", np.array(frames, np.uint8), np.empty(0, np.int32))
        for index, frames in enumerate(expected["frames"])
    ]

    best = predictor.predict(rows, 20)

    assert predictor.version == expected["version"]
    assert best.class_ids.tolist() == expected["class_ids"]
    assert best.scores.numpy() == pytest.approx(np.array(expected["scores"]), abs=1e-6)
    assert predictor.self_check() == 0


def test_what_version_1_did_not_know_is_none() -> None:
    document = load_bundle(VERSION_1 / "bundle").document

    assert (document.format_version, document.migrated_from) == (2, 1)
    assert document.input == InputSchema.of(FeatureSpec({"rgb": 8, "audio": 4}, num_classes=30, max_frames=6), "l2")
    assert (document.licence, document.float32_bytes, document.stored_bytes) == (None, None, None)
    assert document.num_golden_inputs == 0
    assert {(entry.checkpoint_version, entry.data_manifest) for entry in document.members} == {(None, None)}
    old = yaml.safe_load((VERSION_1 / "bundle" / "bundle.yaml").read_text())
    assert document.quality.model_dump() == old["quality"]
    assert [entry.gap_after for entry in document.members] == [member["gap_after"] for member in old["members"]]
    assert document.provenance.created == old["provenance"]["created"]


def test_a_migrated_document_is_one_of_today() -> None:
    document = read_document(VERSION_1 / "bundle")

    again = parse_document(to_yaml(document).encode(), where="again")

    assert again == document.model_copy(update={"migrated_from": None})


@pytest.mark.parametrize(
    ("change", "message"),
    [({"level": None}, "level: "), ({"licence": "MIT"}, "licence: unknown key"), ({"members": []}, "members: ")],
)
def test_a_document_that_is_not_of_the_version_that_it_says_is_refused(change: dict[str, Any], message: str) -> None:
    tree = {**yaml.safe_load((VERSION_1 / "bundle" / "bundle.yaml").read_text()), **change}

    with pytest.raises(ConfigError, match=rf"^bundle\.yaml: {message}"):
        parse_document(yaml.safe_dump(tree).encode(), where="bundle.yaml")


@pytest.mark.parametrize("version", [0, 3, 7, "2", True, None, 1.0])
def test_any_other_version_is_refused_with_a_sentence(write_tiny_bundle: Write, version: object) -> None:
    bundle = edited(write_tiny_bundle(), format_version=version)

    with pytest.raises(ValueError, match=r"bundle\.yaml: format_version .* found, this program reads 1 and 2; take"):
        load_bundle(bundle)


def test_a_document_that_is_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bundle\.yaml: not UTF-8 text"):
        parse_document(b"\xff\xfe", where="bundle.yaml")


def test_a_bundle_that_promises_golden_answers_and_has_none_is_refused(write_tiny_bundle: Write) -> None:
    bundle = write_tiny_bundle()
    (bundle / "golden.safetensors").unlink()

    with pytest.raises(ValueError, match=r"expected the files .*golden\.safetensors"):
        read_document(edited(bundle))


def test_a_document_survives_save_and_load(write_tiny_bundle: Write) -> None:
    document = read_document(write_tiny_bundle())

    assert parse_document(to_yaml(document).encode(), where="saved") == document
    assert BundleDocument.model_validate(document.model_dump(mode="json")) == document

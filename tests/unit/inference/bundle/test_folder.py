"""The bundle: what export writes, what loading refuses, and that it answers like its members."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.batch import make_batch
from tests.support.tiny import ensembles
from yt8m_ray.artifacts.folder_manifest import CheckpointError, NoSuchFolderError, write_manifest
from yt8m_ray.config.export import ExportConfig
from yt8m_ray.config.quantization import TransformConfig
from yt8m_ray.data.format.example import encode_sequence_example
from yt8m_ray.data.format.features import VideoRow
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.data.pipeline.shard_reader import read_rows
from yt8m_ray.inference.bundle.description import format_table
from yt8m_ray.inference.bundle.document import BundleDocument
from yt8m_ray.inference.bundle.folder import load_bundle
from yt8m_ray.inference.ensemble.members import QualityMeter, assemble, load_members
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.inference.quantization.quantize import channel_axes, dequantize_state, quantize_state


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Returns a labelled frame-level shard of 40 videos."""
    generator = np.random.default_rng(5)
    payloads = []
    for index in range(40):
        num_frames = int(generator.integers(1, 7))
        sequences = {name: generator.integers(0, 256, (num_frames, size), np.uint8) for name, size in SIZES.items()}
        context = {"id": [f"v{index:03d}".encode()], "labels": generator.integers(0, 30, 3)}
        payloads.append(encode_sequence_example(context, sequences))
    path = tmp_path / "validate.tfrecord"
    write_records(str(path), payloads)
    return path


SIZES = {"rgb": 8, "audio": 4}


def config(tmp_path: Path, shard: Path, checkpoints: list[Path], **changes: object) -> ExportConfig:
    tree = {
        "members": [
            {"checkpoint": str(path), "weight": weight} for path, weight in zip(checkpoints, (3, 1), strict=False)
        ],
        "transform": {"name": "int8", "min_elements": 100},
        "data": {"validation": str(shard), "batch_size": 16},
        "output": str(tmp_path / "bundle"),
    }
    return ExportConfig.model_validate({**tree, **changes})


def export(config: ExportConfig) -> tuple[Path, BundleDocument]:
    """Exports as `yt8m_ray.inference.ensemble.export` does, in this process."""
    members = load_members(config)
    data = members[0].config.data
    path = str(config.data.validation)
    rows = [row for _, row in read_rows(path, data.spec)]
    meters = []
    for ensemble in ensembles(config, members):
        parts = [QualityMeter(len(members)), QualityMeter(len(members))]
        for meter, part in zip(parts, (rows[:25], rows[25:]), strict=True):
            meter.update(ensemble, make_batch(part, data.spec, normalize=data.normalize))
        parts[0].merge(parts[1])
        meters.append(parts[0])
    return assemble(config, members, before=meters[0], after=meters[1], split=[path])


@pytest.fixture
def bundle(tmp_path: Path, shard: Path, save_tiny_checkpoint: Callable[..., Path]) -> Path:
    checkpoints = [save_tiny_checkpoint("a", seed=1), save_tiny_checkpoint("b", seed=2)]
    return export(config(tmp_path, shard, checkpoints))[0]


def gap_by_loops(scores: list[np.ndarray], labels: list[set[int]]) -> float:
    """Global average precision at 20, straight from its definition."""
    pairs = [
        (float(row[class_id]), class_id in truth)
        for row, truth in zip(scores, labels, strict=True)
        for class_id in np.argsort(-row, kind="stable")[:20]
    ]
    hits, total = 0, 0.0
    for rank, (_, is_hit) in enumerate(sorted(pairs, key=lambda pair: -pair[0]), start=1):
        hits += is_hit
        total += hits / rank if is_hit else 0.0
    return total / sum(len(truth) for truth in labels)


def test_a_bundle_is_these_files_and_no_pickle(bundle: Path) -> None:
    names = sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file())
    assert names == [
        "bundle.yaml",
        "golden.safetensors",
        "manifest.json",
        "members/0/model.safetensors",
        "members/1/model.safetensors",
        "vocabulary.csv",
    ]


def test_a_bundle_answers_like_the_weighted_mean_of_its_quantized_members(
    bundle: Path, shard: Path, tmp_path: Path
) -> None:
    predictor = Predictor.from_path(bundle)
    rows = [row for _, row in read_rows(str(shard), predictor.spec)]
    expected = torch.zeros(len(rows), 30)
    for name, weight in (("a", 0.75), ("b", 0.25)):
        member = Predictor.from_path(tmp_path / name)
        transform = TransformConfig(min_elements=100)
        state = quantize_state(member.model.state_dict(), channel_axes(member.model), transform)
        member.model.load_state_dict(dequantize_state(state))
        best = member.predict(rows, 30)
        expected += weight * torch.zeros(len(rows), 30).scatter(1, best.class_ids, best.scores)
    found = predictor.predict(rows, 30)
    assert torch.allclose(expected.gather(1, found.class_ids), found.scores, atol=0.01)  # activations are rounded too


def test_the_stored_gap_is_that_of_the_answers(bundle: Path, shard: Path) -> None:
    predictor = Predictor.from_path(bundle)
    rows = [row for _, row in read_rows(str(shard), predictor.spec)]
    best = predictor.predict(rows, 30)
    scores = torch.zeros(len(rows), 30).scatter(1, best.class_ids, best.scores).numpy()
    quality = load_bundle(bundle).document.quality
    assert quality.num_videos == 40
    assert quality.gap_after == pytest.approx(
        gap_by_loops(list(scores), [set(row.labels.tolist()) for row in rows]), abs=1e-9
    )


def test_members_that_are_stored_in_different_ways_are_loaded_as_they_were_measured(
    write_tiny_bundle: Callable[..., Path],
) -> None:
    bundle = write_tiny_bundle(transforms=("int8", "float16"))

    dtypes = [
        {str(tensor.dtype) for tensor in load_file(bundle / f"members/{index}/model.safetensors").values()}
        for index in (0, 1)
    ]
    assert dtypes == [{"torch.int8", "torch.float32"}, {"torch.float16", "torch.float32"}]
    assert load_bundle(bundle).document.transforms == ["int8", "float16"]
    assert Predictor.from_path(bundle).self_check() == 3


def test_every_member_has_its_gap_before_and_after(bundle: Path) -> None:
    document = load_bundle(bundle).document
    assert [entry.weight for entry in document.members] == [0.75, 0.25]
    for entry in document.members:
        assert abs(entry.gap_before - entry.gap_after) < 0.05
    lines = format_table(document).splitlines()
    assert [line.split("  ")[0] for line in lines[:4]] == ["model", "0 logistic", "1 logistic", "ensemble"]


def test_quantized_weights_are_stored_as_int8(bundle: Path, tmp_path: Path) -> None:
    stored = load_file(bundle / "members/0/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.int8, torch.float32}


def test_the_version_depends_on_the_content_alone(bundle: Path, tmp_path: Path) -> None:
    moved = bundle.rename(tmp_path / "elsewhere")
    version = load_bundle(moved).version
    assert len(version) == 12
    assert Predictor.from_path(moved).version == version
    assert Predictor.from_path(tmp_path / "a").version != version


@pytest.mark.parametrize("name", ["bundle.yaml", "members/1/model.safetensors", "vocabulary.csv", "golden.safetensors"])
def test_a_changed_file_is_refused_by_name(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(bytes(data))
    with pytest.raises(ValueError, match=name):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["manifest.json", "members/0/model.safetensors"])
def test_a_missing_file_is_refused_by_name(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(ValueError, match=name):
        load_bundle(bundle)


def test_a_file_that_the_manifest_does_not_list_is_not_loaded(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["files"]["members/1/model.safetensors"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="expected the files"):
        load_bundle(bundle)


def reseal(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    write_manifest(bundle, {"kind": "bundle"})


@pytest.mark.parametrize("transform", ["none", "float16", "int8", "int4", "uniform"])
def test_weights_that_are_not_finite_are_refused_by_name(
    write_tiny_bundle: Callable[..., Path], transform: str
) -> None:
    options = {"none": {}, "int4": {"group_size": 4, "min_elements": 0}}.get(transform, {"min_elements": 0})
    bundle = write_tiny_bundle(export={"transform": {"name": transform, **options}})
    path = bundle / "members/1/model.safetensors"
    stored = {name: tensor.clone() for name, tensor in load_file(path).items()}
    (name, tensor), *_ = [(name, tensor) for name, tensor in stored.items() if tensor.is_floating_point()]
    tensor.view(-1)[0] = float("nan")
    save_file(stored, path)
    reseal(bundle)

    with pytest.raises(CheckpointError, match=rf"members/1/model\.safetensors: {name}: expected finite weights"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "num_classes: 30",
            "num_classes: 1000000",
            r"weights do not fit the model: .*\[30\], expected F32 .* \[1000000\]",
        ),
        ("size: 8", "size: 1000000000", r"weights do not fit .* is I8 \[30, 12\], expected I8 \[30, 1000000004\]"),
        ("name: logistic", "name: telepathic", "its model in bundle.yaml: name: unknown model 'telepathic'"),
        ("l2: ", "l3: ", "its model in bundle.yaml: l3: Extra inputs are not permitted"),
    ],
)
def test_a_document_of_other_models_is_refused_by_the_heads_of_the_weights(
    write_tiny_bundle: Callable[..., Path], old: str, new: str, message: str
) -> None:
    bundle = write_tiny_bundle()
    text = (bundle / "bundle.yaml").read_text()
    assert old in text
    (bundle / "bundle.yaml").write_text(text.replace(old, new))
    reseal(bundle)

    with pytest.raises(CheckpointError, match=rf"members/0/model\.safetensors: {message}"):
        load_bundle(bundle)


def test_a_member_without_the_name_of_a_model_is_refused_by_its_key(bundle: Path) -> None:
    text = (bundle / "bundle.yaml").read_text()
    (bundle / "bundle.yaml").write_text(text.replace("name: logistic", "names: logistic", 1))
    reseal(bundle)

    with pytest.raises(
        ValueError, match=r"bundle\.yaml: members\.0\.model: expected the config of a model, with its name"
    ):
        load_bundle(bundle)


def test_a_vocabulary_of_too_few_classes_is_refused(bundle: Path) -> None:
    Vocabulary.for_num_classes(5).save(bundle / "vocabulary.csv")
    reseal(bundle)
    with pytest.raises(ValueError, match=r"vocabulary\.csv: expected the names of 30 classes, found 5"):
        load_bundle(bundle)


def test_an_unknown_format_version_is_refused_with_a_sentence(bundle: Path) -> None:
    document = (bundle / "bundle.yaml").read_text().replace("format_version: 2", "format_version: 7")
    (bundle / "bundle.yaml").write_text(document)
    reseal(bundle)
    with pytest.raises(ValueError, match="format_version 7 found, this program reads 1 and 2"):
        load_bundle(bundle)


def test_a_checkpoint_is_no_bundle(save_tiny_checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="expected a bundle, found a checkpoint"):
        load_bundle(save_tiny_checkpoint())


def test_a_bundle_is_never_written_over(tmp_path: Path, shard: Path, bundle: Path) -> None:
    with pytest.raises(FileExistsError, match="exists already"):
        export(config(tmp_path, shard, [tmp_path / "a"]))


def test_members_of_other_features_leave_nothing_behind(
    tmp_path: Path, shard: Path, save_tiny_checkpoint: Callable[..., Path]
) -> None:
    checkpoints = [save_tiny_checkpoint("a"), save_tiny_checkpoint("b", data={"features": {"rgb": 8}})]
    with pytest.raises(ValueError, match=r"data\.features"):
        export(config(tmp_path, shard, checkpoints))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "validate.tfrecord"]


def test_without_a_transform_the_answers_are_the_checkpoints_own(
    tmp_path: Path, shard: Path, save_tiny_checkpoint: Callable[..., Path]
) -> None:
    checkpoint = save_tiny_checkpoint("a")
    path, document = export(config(tmp_path, shard, [checkpoint], transform={"name": "none"}))
    row = VideoRow("x", np.full((3, 12), 200, np.uint8), np.empty(0, np.int32))
    assert torch.equal(
        Predictor.from_path(path).predict([row]).scores, Predictor.from_path(checkpoint).predict([row]).scores
    )
    assert document.quality.gap_before == document.quality.gap_after


def test_shards_without_labels_cannot_measure_anything(
    tmp_path: Path, save_tiny_checkpoint: Callable[..., Path]
) -> None:
    sequences = {name: np.zeros((2, size), np.uint8) for name, size in SIZES.items()}
    path = tmp_path / "test.tfrecord"
    write_records(str(path), [encode_sequence_example({"id": [b"a"]}, sequences)])
    with pytest.raises(ValueError, match="none of its 1 videos has a label"):
        export(config(tmp_path, path, [save_tiny_checkpoint("a")]))


def test_a_folder_of_neither_kind_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(NoSuchFolderError, match=r"no run, checkpoint or bundle"):
        Predictor.from_path(tmp_path)

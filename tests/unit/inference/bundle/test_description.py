"""The page and the JSON document of a bundle."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from yt8m_ray.artifacts.archive import write_archive
from yt8m_ray.artifacts.folder_manifest import CheckpointError
from yt8m_ray.artifacts.tensor_file import read_tensor_entries
from yt8m_ray.errors import ConfigError
from yt8m_ray.inference.bundle.choice_reports import TransformReport, Trial, TriedMember
from yt8m_ray.inference.bundle.description import describe, format_table, to_json, to_text

Write = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[4]
VERSION_1 = ROOT / "tests" / "golden" / "bundle_version_1" / "bundle"


def test_the_page_says_what_an_operator_asks(write_tiny_bundle: Write) -> None:
    bundle = write_tiny_bundle()
    description = describe(bundle)

    page = to_text(description)

    quality = description.document.quality
    for part in (
        f"bundle {bundle}",
        f"version {description.version}, format 2",
        f"ensemble              1.0000 {quality.gap_before:12.6f} {quality.gap_after:12.6f}        0.00        0.00",
        "on 8 videos of 1 shard\n  validate.tfrecord",
        "input: frame level, at most 6 frames, normalized here: l2",
        "  audio            4 uint8 a frame",
        "output: 30 classes, named in vocabulary.csv",
        "licence of the weights: Apache-2.0",
        "  vocabulary.csv: YouTube-8M vocabulary, Google Inc., CC-BY-4.0, https://research.google.com/youtube8m/",
        "member 1: logistic (",
        f"  checkpoint     {bundle}-2, version ",
        "golden answers: 3",
    ):
        assert part in page, part
    assert "weight\n" not in page


def test_members_that_are_stored_in_different_ways_say_in_which(write_tiny_bundle: Write) -> None:
    document = describe(write_tiny_bundle(transforms=("int8", "float16"))).document

    table = [line.split() for line in format_table(document).splitlines()[:4]]

    assert [words[-1] for words in table[:3]] == ["as", "int8", "float16"]
    assert table[0][4:8] == ["GAP", "stored", "MB", "float32"]
    assert table[3][0] == "ensemble" and len(table[3]) == 6


def test_activations_are_named_where_integers_are_multiplied(write_tiny_bundle: Write) -> None:
    both = to_text(describe(write_tiny_bundle("both", transforms=("int8", "float16"))))
    half = to_text(describe(write_tiny_bundle("half", transforms=("float16", "float16"))))

    assert "\ntransform: int8, float16; activations int8\n" in both
    assert "\ntransform: float16\n" in half


def test_each_figure_stands_beside_the_shards_that_it_was_measured_on(write_tiny_bundle: Write) -> None:
    description = describe(write_tiny_bundle())
    trial = Trial(transform="none", gap=0.5, num_bytes=1000)
    member = TriedMember(name="logistic", checkpoint="runs/a", transform="none", trials=[trial])
    report = TransformReport(shards=["w0", "w1"], num_videos=9, max_gap_loss=0.001, members=[member])
    document = description.document.model_copy(update={"trials": report})

    page = to_text(dataclasses.replace(description, document=document))

    assert "\non 8 videos of 1 shard\n  validate.tfrecord\n\nstored as the smallest" in page
    assert " on 9 videos of 2 other shards:\n  w0\n  ... w1\nlogistic of runs/a\n" in page


def test_a_video_level_input_has_no_frames(write_tiny_bundle: Write) -> None:
    page = to_text(describe(write_tiny_bundle(data={"features": {"mean_rgb": 8}})))

    assert "\ninput: video level, normalized here: l2\n  mean_rgb         8 float32 a video\n" in page


def test_each_tensor_is_listed_with_its_type_and_bytes(write_tiny_bundle: Write) -> None:
    bundle = write_tiny_bundle()

    lines = to_text(describe(bundle), with_tensors=True).rpartition("\n\n")[2].splitlines()[1:]

    expected = []
    for member in (0, 1):
        stored = load_file(bundle / f"members/{member}/model.safetensors")
        kinds = {"torch.int8": "I8", "torch.float32": "F32"}
        expected += [
            [str(member), str(tensor.nbytes), kinds[str(tensor.dtype)], name, str(list(tensor.shape))]
            for name, tensor in sorted(stored.items())
        ]
    assert [line.split(maxsplit=4) for line in lines] == expected


def test_the_json_document_has_all_of_it(write_tiny_bundle: Write) -> None:
    bundle = write_tiny_bundle()

    tree = json.loads(to_json(describe(bundle), with_tensors=True))

    assert (tree["path"], tree["format_version"], tree["version"]) == (str(bundle), 2, describe(bundle).version)
    assert (tree["float32_bytes"], tree["stored_bytes"]) == (3120, 1200)
    assert tree["input"]["features"][0] == {"name": "rgb", "dtype": "uint8", "size": 8}
    assert tree["quality"]["num_videos"] == 8
    assert sum(tensor["num_bytes"] for member in tree["tensors"] for tensor in member) == 1200


def test_a_bundle_of_version_1_is_described_with_what_it_knows() -> None:
    description = describe(VERSION_1)
    page = to_text(description)

    assert "version c0a59f0433dc, format 1, read as 2" in page
    assert "ensemble              1.0000     0.064985     0.064924           -           -" in page
    assert "licence: unknown" in page and "golden answers: none" in page
    assert "MLflow run     " + "1" * 32 in page
    assert json.loads(to_json(description))["migrated_from"] == 1


def test_a_tar_is_described_like_its_folder(
    write_tiny_bundle: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YT8M_CACHE", str(tmp_path / "cache"))
    bundle = write_tiny_bundle()
    write_archive(bundle, tmp_path / "x.tar")

    by_tar, by_folder = to_text(describe(tmp_path / "x.tar")), to_text(describe(bundle))

    assert by_tar.splitlines()[0] == f"bundle {tmp_path / 'x.tar'}"
    assert by_tar.splitlines()[1:] == by_folder.splitlines()[1:]


def test_a_checkpoint_is_told_what_makes_a_bundle_of_it(save_tiny_checkpoint: Write) -> None:
    with pytest.raises(ConfigError, match=r"expected a bundle, found a checkpoint; yt8m export makes a bundle"):
        describe(save_tiny_checkpoint())


def test_a_folder_of_something_else_is_a_mistake_in_the_arguments(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run, checkpoint or bundle; the folder holds nothing"):
        describe(tmp_path)


def test_a_damaged_bundle_is_not_described(write_tiny_bundle: Write) -> None:
    bundle = write_tiny_bundle()
    data = bytearray((bundle / "members/1/model.safetensors").read_bytes())
    data[-1] ^= 1
    (bundle / "members/1/model.safetensors").write_bytes(bytes(data))

    with pytest.raises(CheckpointError, match="do not match the hash"):
        describe(bundle)


@pytest.mark.parametrize(
    "content",
    [b"", b"1234", (1 << 40).to_bytes(8, "little"), (2).to_bytes(8, "little") + b"[]", b"\2" + b"\0" * 7 + b"xx"],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a safetensors file: "):
        read_tensor_entries(tmp_path / "model.safetensors")


def test_the_verb_prints_one_document_without_torch_ray_or_mlflow() -> None:
    heavy = "{'torch', 'ray', 'mlflow', 'numba'}"
    verb = "from yt8m_ray.cli.main import call; call(['describe', *sys.argv[1:]])"
    code = f"import sys; {verb}; sys.exit({heavy} & set(sys.modules) or 0)"

    command = [sys.executable, "-c", code, str(VERSION_1), "--json"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["num_classes"] == 30

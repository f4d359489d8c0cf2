"""Loading a model with its checks, and the choice of the model for a request."""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from serve.errors import RequestError
from serve.model.hosted_model import HostedModel, ModelHost
from yt8m_ray.artifacts.folder_manifest import MANIFEST_FILE
from yt8m_ray.data.format.features import VideoRow
from yt8m_ray.inference.predictor import Predictor


def alter_and_seal(bundle: Path) -> None:
    """Changes a weight of a bundle and writes its hash into the manifest, as one does who wants it to be believed."""
    weights = max(bundle.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    tensors = load_file(weights)
    name = max(tensors, key=lambda each: tensors[each].nbytes)
    tensors[name] = np.zeros_like(tensors[name])
    save_file(tensors, weights)
    manifest = bundle / MANIFEST_FILE
    tree = json.loads(manifest.read_text())
    entry = tree["files"][weights.name]
    content = weights.read_bytes()
    for key, value in entry.items():
        entry[key] = hashlib.sha256(content).hexdigest() if isinstance(value, str) else len(content)
    manifest.write_text(json.dumps(tree))


def test_a_bundle_is_loaded_and_answers(write_tiny_bundle: Callable[..., Path]) -> None:
    bundle = write_tiny_bundle()
    model = HostedModel.load(str(bundle))
    assert model.version == Predictor.from_path(bundle).version and model.uri == str(bundle)
    row = VideoRow("v", np.zeros((3, 12), np.uint8), np.empty(0, np.int32))
    ((class_ids, scores),) = model.best_classes([row], 4)
    best = Predictor.from_path(bundle).predict([row], 4)
    assert class_ids == best.class_ids[0].tolist() and scores == best.scores[0].tolist()


def test_a_row_whose_scores_are_nan_is_refused_and_no_other(save_tiny_checkpoint: Callable[..., Path]) -> None:
    data = {"features": {"mean_rgb": 8}, "normalize": "none"}
    model = HostedModel.load(str(save_tiny_checkpoint(data=data, model={"name": "moe"})))
    sound, huge = (VideoRow("v", np.full((1, 8), value, np.float32), None) for value in (1.0, 3e38))

    first, second, third, fourth = model.best_classes([huge, sound, huge, sound], 4)

    assert second == fourth == model.best_classes([sound], 4)[0]
    for refusal in (first, third):
        assert isinstance(refusal, RequestError) and refusal.status == 422
        assert "scores of this video are NaN" in refusal.message
    assert all(isinstance(each, RequestError) for each in model.best_classes([huge], 4))


def test_altered_weights_are_refused_by_the_golden_answers_though_their_hash_is_right(
    write_tiny_bundle: Callable[..., Path],
) -> None:
    bundle = write_tiny_bundle()
    alter_and_seal(bundle)
    Predictor.from_path(bundle)  # nothing else sees it
    with pytest.raises(ValueError, match="expected"):
        HostedModel.load(str(bundle))


def test_damaged_weights_are_refused_by_their_hash(write_tiny_bundle: Callable[..., Path]) -> None:
    bundle = write_tiny_bundle()
    weights = max(bundle.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(ValueError, match="hash"):
        HostedModel.load(str(bundle))


def test_a_checkpoint_which_has_no_golden_answers_is_loaded(save_tiny_checkpoint: Callable[..., Path]) -> None:
    assert HostedModel.load(str(save_tiny_checkpoint())).predictor.golden is None


def test_a_vocabulary_that_cannot_be_read_is_found_before_a_request(
    save_tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = save_tiny_checkpoint(data={"vocabulary": str(tmp_path / "nothing.csv")})
    with pytest.raises((ValueError, OSError), match=r"nothing\.csv"):
        HostedModel.load(str(checkpoint))


@pytest.fixture
def host(save_tiny_checkpoint: Callable[..., Path]) -> ModelHost:
    current, canary = (HostedModel.load(str(save_tiny_checkpoint(str(seed), seed=seed))) for seed in (1, 2))
    host = ModelHost(current)
    host.canary, host.canary_share = canary, 0.2
    return host


def test_the_canary_answers_its_share(host: ModelHost) -> None:
    host._random.seed(5)
    counts = collections.Counter(host.choose(None).version for _ in range(10_000))
    assert host.canary is not None
    assert 1800 < counts[host.canary.version] < 2200 and counts.total() == 10_000


@pytest.mark.parametrize(("share", "is_canary"), [(0.0, False), (1.0, True)])
def test_a_share_of_nothing_or_all_is_exact(host: ModelHost, share: float, is_canary: bool) -> None:
    host.canary_share = share
    assert {host.choose(None) is host.canary for _ in range(1000)} == {is_canary}


def test_a_version_that_is_named_answers(host: ModelHost) -> None:
    assert host.canary is not None
    for model in (host.current, host.canary):
        assert host.choose(model.version) is model


def test_an_unknown_version_is_refused_with_those_that_are_served(host: ModelHost) -> None:
    with pytest.raises(RequestError, match=f"version: 'x+' is not served; valid: {host.current.version}, ") as refusal:
        host.choose("x" * 1000)
    assert refusal.value.status == 404 and len(refusal.value.message) < 200

"""GET /v1/model: what anyone may know of the models, and nothing of where they lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serve.http.api import build_api
from serve.model.card import card_of
from serve.model.hosted_model import HostedModel
from serve.settings import ServeArgs
from tests.support.local_service import LocalService
from yt8m_ray.inference.bundle.document import DataManifest
from yt8m_ray.inference.predictor import Predictor


def test_a_bundle_tells_what_its_document_holds(write_tiny_bundle: Callable[..., Path]) -> None:
    predictor = Predictor.from_path(write_tiny_bundle())
    document = predictor.document
    assert document is not None
    client = TestClient(build_api(LocalService(predictor, args=ServeArgs(name="tiny"))))
    cards = client.get("/v1/model").json()
    assert (cards["name"], cards["canary"], cards["canary_share"]) == ("tiny", None, 0)
    card = cards["current"]
    assert (card["version"], card["kind"], card["level"]) == (predictor.version, "bundle", "frame")
    assert card["features"] == [
        {"name": "rgb", "size": 8, "dtype": "uint8"},
        {"name": "audio", "size": 4, "dtype": "uint8"},
    ]
    assert (card["num_classes"], card["max_frames"], card["normalize"]) == (30, 6, "l2")
    assert card["quality"] == {
        "gap_before": document.quality.gap_before,
        "gap_after": document.quality.gap_after,
        "num_videos": 8,
        "shards": ["validate.tfrecord"],
        "num_shards": 1,
    }
    assert [(member["name"], member["weight"]) for member in card["members"]] == [
        ("logistic", 0.75),
        ("logistic", 0.25),
    ]
    assert card["stored_bytes"] == document.stored_bytes < card["float32_bytes"]
    assert card["transform"] == {"name": "int8", "activations": "int8"}
    assert card["licence"]["weights"] == "Apache-2.0"
    assert card["provenance"] == document.provenance.model_dump()


def test_a_checkpoint_says_null_of_what_a_bundle_measures(save_tiny_checkpoint: Callable[..., Path]) -> None:
    predictor = Predictor.from_path(save_tiny_checkpoint(data={"features": {"mean_rgb": 8}}))
    card = TestClient(build_api(LocalService(predictor))).get("/v1/model").json()["current"]
    assert (card["kind"], card["level"]) == ("checkpoint", "video")
    assert card["features"] == [{"name": "mean_rgb", "size": 8, "dtype": "float32"}]
    unknown = ("members", "transform", "quality", "float32_bytes", "stored_bytes", "licence", "provenance")
    assert [card[name] for name in unknown] == [None] * len(unknown)


def test_a_canary_has_a_card_of_its_own(save_tiny_checkpoint: Callable[..., Path]) -> None:
    service = LocalService(Predictor.from_path(save_tiny_checkpoint()))
    canary = Predictor.from_path(save_tiny_checkpoint("another", seed=7))
    service.host.canary, service.host.canary_share = HostedModel("canary", canary), 0.25
    cards = TestClient(build_api(service)).get("/v1/model").json()
    assert (cards["canary"]["version"], cards["canary_share"]) == (canary.version, 0.25)
    assert cards["current"]["version"] != canary.version


def test_no_path_of_the_server_is_shown(write_tiny_bundle: Callable[..., Path]) -> None:
    predictor = Predictor.from_path(write_tiny_bundle())
    document = predictor.document
    assert document is not None
    member = document.members[0]
    told = {
        "model": {**member.model, "teacher": "/srv/teacher", "head": {"file": "C:\\head", "name": "moe"}},
        "data_manifest": DataManifest(path="/srv/manifest.json", sha256="ab"),
    }
    quality = document.quality.model_copy(update={"split": ["/srv/a.tfrecord", "s3://srv/b", "/srv/c.tfrecord"]})
    changed = document.model_copy(update={"members": [member.model_copy(update=told)], "quality": quality})
    vars(predictor)["document"] = changed
    card = card_of(HostedModel("/srv/bundle", predictor))
    assert card.members is not None and card.quality is not None
    assert card.members[0].options["head"] == {"name": "moe"} and card.members[0].data_manifest_sha256 == "ab"
    assert card.quality.shards == ["a.tfrecord", "c.tfrecord"] and card.quality.num_shards == 3
    text = card.model_dump_json()
    assert "srv" not in text and "teacher" not in text and member.checkpoint not in text


def test_what_was_measured_on_no_video_was_not_measured(write_tiny_bundle: Callable[..., Path]) -> None:
    predictor = Predictor.from_path(write_tiny_bundle())
    document = predictor.document
    assert document is not None
    quality = document.quality.model_copy(update={"num_videos": 0, "split": [], "gap_before": 0.0, "gap_after": 0.0})
    vars(predictor)["document"] = document.model_copy(update={"quality": quality})
    card = card_of(HostedModel("bundle", predictor))
    assert card.quality is None and card.members is not None
    assert card.members[0].gap_before is None and card.members[0].gap_after is None


@pytest.mark.parametrize("path", ["/v1/model", "/v1/examples"])
def test_the_answers_are_in_the_openapi_document(save_tiny_checkpoint: Callable[..., Path], path: str) -> None:
    client = TestClient(build_api(LocalService(Predictor.from_path(save_tiny_checkpoint()))))
    operation = client.get("/openapi.json").json()["paths"][path]["get"]
    assert {"200", "401"} <= operation["responses"].keys()

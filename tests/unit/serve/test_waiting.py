"""Clients that go away while they wait for the model, behind a real server."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.live_server import Upload, serving, wait_until
from tests.support.local_service import LocalService
from tests.support.tiny import save_checkpoint_of
from yt8m_ray.data.format.example import encode_sequence_example
from yt8m_ray.inference.predictor import Predictor

RECORD = encode_sequence_example({}, {"rgb": np.ones((4, 8), np.uint8), "audio": np.ones((4, 4), np.uint8)})
BINARY = {"content-type": "application/octet-stream"}


class BlockedService(LocalService):
    """A service whose model computes nothing until it is told to."""

    def __init__(self, model: Predictor) -> None:
        super().__init__(model)
        self.may_answer = threading.Event()
        self.num_batches = 0
        model.model.register_forward_pre_hook(self._block)

    def _block(self, *_: object) -> None:
        self.num_batches += 1
        assert self.may_answer.wait(60)


@pytest.fixture
def service(tmp_path: Path) -> BlockedService:
    service = BlockedService(Predictor.from_path(save_checkpoint_of(tmp_path / "checkpoint")))
    # One video a batch: a batch of two would compute for the one who has gone what it computes for the other.
    service.limits = service.limits.model_copy(update={"max_batch_size": 1})
    return service


def asked(port: int) -> Upload:
    request = Upload(port, "/v1/predict", BINARY)
    request.send(RECORD)
    request.finish()
    return request


def test_what_a_client_that_has_gone_asked_for_is_not_computed(service: BlockedService) -> None:
    with serving(service) as port:
        first = asked(port)
        wait_until(lambda: service.num_batches == 1)
        second = asked(port)
        wait_until(lambda: 'yt8m_queued_videos{replica="local"} 1.0' in service.metrics.text())
        second.close()
        wait_until(lambda: 'route="/v1/predict",status="499"' in service.metrics.text())
        service.may_answer.set()
        assert first.response().status == 200
        assert asked(port).response().status == 200
    assert service.num_batches == 2


def test_a_client_that_waits_for_long_is_answered(service: BlockedService) -> None:
    with serving(service) as port:
        request = asked(port)
        time.sleep(0.3)
        service.may_answer.set()
        response = request.response()
        assert response.status == 200 and len(json.loads(response.read())["predictions"]) == 1

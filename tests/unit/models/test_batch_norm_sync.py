"""Two workers with unequal rows take the same step as one worker with all of them.

Run as a script, this file is one worker of a gloo group; the tests start two of them and compare.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # run as a script, its folder is what Python looks in

from tests.support.two_workers import run_two_workers
from yt8m_ray.models import Model, build_model, set_batch_norm_sync

NUM_CLIPS = 4
SPLITS = {"3 and 1 rows": (3, 1), "4 and 0 rows": (4, 0)}
CONFIG = {
    "name": "netvlad",
    "num_clusters": 4,
    "hidden_dim": 3,
    "use_relu": True,
    "batch_norm_momentum": 0.5,
    "head": {"name": "moe", "prob_gating": "prob"},
}


def step(rows: slice) -> tuple[Model, torch.Tensor]:
    """Returns a model after one backward pass of the sum over the clips `rows`, and its logits."""
    torch.manual_seed(0)
    model = build_model(CONFIG, feature_sizes=(5, 3), num_classes=2)
    frames, weights = torch.randn(NUM_CLIPS, 6, 8), torch.randn(NUM_CLIPS, 2)
    num_frames = torch.tensor([6, 2, 4, 1])
    logits = model(frames[rows], num_frames[rows])
    (logits * weights[rows]).sum().backward()
    return model, logits.detach()


def state_of(model: Model, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    gradients = {f"{name}.grad": parameter.grad for name, parameter in model.named_parameters()}
    return {"logits": logits, **gradients, **dict(model.named_buffers())}


def work(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    for title, (first, _) in SPLITS.items():
        rows = slice(0, first) if rank == 0 else slice(first, NUM_CLIPS)
        model, logits = step(rows)
        for parameter in model.parameters():
            torch.distributed.all_reduce(parameter.grad)
        torch.save(state_of(model, logits), folder / f"{title} {rank}.pt")
    # Without synchronization a worker sees its own rows only.
    model = build_model(CONFIG, feature_sizes=(5, 3), num_classes=2)
    set_batch_norm_sync(model, False)
    model(torch.full((2, 1, 8), float(rank)), torch.ones(2, dtype=torch.int64))
    torch.save(model.input_bn.moving_mean, folder / f"alone {rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where two workers left what they computed."""
    folder = tmp_path_factory.mktemp("workers")
    run_two_workers(__file__, folder)
    return folder


@pytest.mark.parametrize("title", SPLITS)
def test_logits_statistics_and_gradients_equal_those_of_one_worker(results: Path, title: str) -> None:
    expected = state_of(*step(slice(0, NUM_CLIPS)))
    states = [torch.load(results / f"{title} {rank}.pt") for rank in range(2)]
    logits = torch.cat([state.pop("logits") for state in states])
    torch.testing.assert_close(logits, expected.pop("logits"), rtol=1e-4, atol=1e-5)
    for state in states:
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-5)


def test_without_synchronization_a_worker_normalizes_by_its_own_rows(results: Path) -> None:
    means = [torch.load(results / f"alone {rank}.pt") for rank in range(2)]
    assert means[0].tolist() == [0.0] * 8
    assert means[1].tolist() == pytest.approx([0.9] * 8)


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))

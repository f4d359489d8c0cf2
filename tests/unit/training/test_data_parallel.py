"""Every model under DistributedDataParallel: two workers with unequal rows compute the gradients of one with all.

Run as a script, this file is one worker of a gloo group; the tests start two of them and compare.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # run as a script, its folder is what Python looks in

from tests.support.two_workers import run_two_workers
from tests.unit.models.test_model_contract import FEATURE_SIZES, NUM_CLASSES, NUM_FRAMES, random_frames, without_draws
from yt8m_ray.losses import build_loss
from yt8m_ray.models import MODELS, build_model
from yt8m_ray.training.steps.objective import Objective

NUM_ROWS = len(NUM_FRAMES)
SPLIT = 4
"""Rows of the first worker; the second has the rest."""


def gradients(name: str, rows: slice, *, num_workers: int) -> dict[str, torch.Tensor]:
    """Returns the gradients of the mean loss over all rows, after a backward pass over `rows` here."""
    torch.manual_seed(0)
    # Workers draw other frames and leave out other units than one alone would.
    model = build_model(without_draws(name), feature_sizes=FEATURE_SIZES, num_classes=NUM_CLASSES)
    objective: torch.nn.Module = Objective(model, build_loss({"name": "cross_entropy"}))
    if num_workers > 1:
        objective = DistributedDataParallel(objective, forward_sync_buffers=False, gradient_as_bucket_view=True)
    labels = (torch.arange(NUM_ROWS * NUM_CLASSES).reshape(NUM_ROWS, NUM_CLASSES) % 3 == 0).float()
    loss, _ = objective(random_frames()[rows], NUM_FRAMES[rows], labels[rows])
    (loss * len(labels[rows]) * num_workers / NUM_ROWS).backward()
    found = {key: parameter.grad for key, parameter in model.named_parameters()}
    assert None not in found.values()
    return found


def work(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    rows = slice(0, SPLIT) if rank == 0 else slice(SPLIT, NUM_ROWS)
    torch.save({name: gradients(name, rows, num_workers=2) for name in MODELS.names()}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


DRAWS_BY_ITSELF = ("cnn",)
"""Two workers draw other cuts of their clips than one alone would."""


@pytest.fixture(scope="module", name="by_workers")
def gradients_by_two_workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("workers")
    run_two_workers(__file__, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", MODELS.names())
def test_all_workers_step_alike(by_workers: list[dict[str, dict[str, torch.Tensor]]], name: str) -> None:
    first, second = by_workers
    assert all(torch.equal(first[name][key], second[name][key]) for key in first[name])


@pytest.mark.parametrize("name", [name for name in MODELS.names() if name not in DRAWS_BY_ITSELF])
def test_two_workers_have_the_gradients_of_one(by_workers: list[dict[str, dict[str, torch.Tensor]]], name: str) -> None:
    expected = gradients(name, slice(0, NUM_ROWS), num_workers=1)
    for found in by_workers:
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))

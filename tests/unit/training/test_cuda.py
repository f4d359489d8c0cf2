"""What a GPU computes: every model's steps as on the CPU, and what the loop can do besides. Skipped without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from benchmarks.learning import config_of as small_config_of
from yt8m_ray.artifacts.checkpoint import save_checkpoint
from yt8m_ray.config.document import override
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.features import VideoRow
from yt8m_ray.data.pipeline.batches import batches_of
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.losses import build_loss
from yt8m_ray.models import MODELS, build_model
from yt8m_ray.training.steps.build_loop import build_loop
from yt8m_ray.training.steps.loop import TrainingLoop
from yt8m_ray.training.steps.objective import Objective

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

CPU, GPU = torch.device("cpu"), torch.device("cuda")
NUM_VIDEOS = 48
NUM_STEPS = 3


def config_of(name: str = "netvlad", changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """Returns a small model's run in which nothing is drawn at random but the weights it begins with."""
    config = small_config_of(name, num_epochs=4, seed=0)
    dropout = {"model.dropout": 0.0} if "dropout" in type(config.model).model_fields else {}
    return override(config, {"train.batch_size": 16, **dropout, **(changes or {})})


def videos_of(config: TrainConfig) -> PackedVideos:
    rng = np.random.default_rng(0)
    rows = [
        VideoRow(
            str(number),
            rng.integers(0, 256, (rng.integers(3, 13), config.data.spec.dim), dtype=np.uint8),
            rng.choice(config.data.num_classes, 3, replace=False).astype(np.int32),
        )
        for number in range(NUM_VIDEOS)
    ]
    return PackedVideos.from_rows(rows, config.data.spec)


def batches(config: TrainConfig, *, pin_memory: bool = False, first: int = 0) -> Iterator[PackedVideos]:
    rows = np.arange(first * config.train.batch_size, NUM_VIDEOS)
    return batches_of([videos_of(config).select(rows)], batch_size=config.train.batch_size, pin_memory=pin_memory)


def losses(loop: TrainingLoop, videos: Iterator[PackedVideos]) -> list[float]:
    """Returns the loss of each step: from the second on, they tell of the gradients of the one before."""
    return [loop.interval()["train/loss"] for _ in loop.steps(videos)]


def losses_on(device: torch.device, config: TrainConfig) -> list[float]:
    loop, _ = build_loop(config, device=device)
    return losses(loop, batches(config, pin_memory=device.type == "cuda"))


def loop_of(config: TrainConfig, wrap: Callable[[Objective], torch.nn.Module] = lambda objective: objective) -> Any:
    torch.manual_seed(0)
    model = build_model(config.model, feature_sizes=config.data.feature_sizes, num_classes=config.data.num_classes)
    objective = wrap(Objective(model, build_loss(config.loss)).to(GPU))
    return TrainingLoop(objective, config, device=GPU)


@pytest.mark.parametrize("name", MODELS.names())
def test_steps_have_the_losses_that_the_cpu_has(name: str) -> None:
    config = config_of(name)

    assert losses_on(GPU, config) == pytest.approx(losses_on(CPU, config), rel=2e-3)


@pytest.mark.parametrize("name", MODELS.names())
def test_steps_in_bfloat16_have_nearly_the_losses_of_float32(name: str) -> None:
    found = losses_on(GPU, config_of(name, {"train.precision": "bfloat16"}))

    assert found == pytest.approx(losses_on(GPU, config_of(name)), rel=0.05)


@pytest.mark.parametrize("name", ["logistic", "moe", "netvlad", "nextvlad", "lstm"])
def test_a_compiled_model_has_the_losses_of_an_eager_one(name: str) -> None:
    assert losses_on(GPU, config_of(name, {"train.compile": True})) == pytest.approx(
        losses_on(GPU, config_of(name)), rel=2e-3
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"train.transfer": "float32"},
        {"optimizer.fused": False},
        {"optimizer.clip": "global"},
        {"optimizer.epsilon_hat": True},
        {"optimizer.name": "adamw", "optimizer.weight_decay": 0.01},
        {"optimizer.name": "sgd", "optimizer.momentum": 0.9},
        {"optimizer.schedule": "cosine", "optimizer.warm_up_examples": 20},
        {"train.on_nonfinite": "skip"},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_an_option_has_the_losses_that_the_cpu_has(changes: dict[str, Any]) -> None:
    config = config_of(changes=changes)

    assert losses_on(GPU, config) == pytest.approx(losses_on(CPU, config), rel=2e-3)


def test_a_step_in_parts_is_the_step_of_the_whole() -> None:
    whole, parts = config_of("moe"), config_of("moe", {"train.accumulation": 4})

    assert losses_on(GPU, parts) == pytest.approx(losses_on(GPU, whole), rel=1e-5)


def test_the_moving_average_is_that_of_the_cpu() -> None:
    config = config_of("moe", {"ema.decay": 0.9, "ema.warm_up": True})
    averages = []
    for device in (CPU, GPU):
        loop, _ = build_loop(config, device=device)
        list(loop.steps(batches(config)))
        averages.append({name: tensor.cpu() for name, tensor in loop.evaluated_model.state_dict().items()})

    torch.testing.assert_close(averages[1], averages[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["moe", "netvlad", "lstm"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_continued_run_equals_one_that_was_not_stopped(name: str, fused: bool) -> None:
    config = config_of(name, {"optimizer.fused": fused})
    straight, _ = build_loop(config, device=GPU)
    expected = losses(straight, batches(config))
    first, _ = build_loop(config, device=GPU)
    next(first.steps(batches(config)))
    state = {name: tensor.cpu() for name, tensor in first.state(first.progress.position).items()}
    second, _ = build_loop(config, device=GPU)
    second.model.load_state_dict({name: tensor.cpu() for name, tensor in first.model.state_dict().items()})
    second.load_state(state)

    found = losses(second, batches(config, first=1))

    assert second.progress.step == NUM_STEPS
    assert found == pytest.approx(expected[1:], rel=1e-6)


@pytest.mark.parametrize("name", ["moe", "netvlad"])
def test_an_epoch_of_one_nccl_worker_is_that_of_no_group(name: str, tmp_path: Path) -> None:
    config = config_of(name)
    alone = loop_of(config)
    expected = losses(alone, batches(config, pin_memory=True))
    torch.cuda.set_device(0)
    torch.distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/group", world_size=1, rank=0)
    try:
        wrapped = loop_of(config, lambda objective: DistributedDataParallel(objective, gradient_as_bucket_view=True))
        found = losses(wrapped, batches(config, pin_memory=True))
        weights = {name: tensor.clone() for name, tensor in wrapped.model.state_dict().items()}
    finally:
        torch.distributed.destroy_process_group()

    assert found == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(weights, dict(alone.model.state_dict()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["distillation.teacher", "teacher.checkpoint", "teacher.model"])
def test_a_teacher_teaches_as_on_the_cpu(kind: str, tmp_path: Path) -> None:
    student = config_of("moe")
    teacher, _ = build_loop(student, device=CPU)
    state = teacher.state(teacher.progress.position)
    save_checkpoint(tmp_path, config=student, model=teacher.model, state=state, facts={})
    value = {"name": "moe", "num_mixtures": 4} if kind == "teacher.model" else str(tmp_path)
    config = override(student, {kind: value, "run.seed": 1})

    assert losses_on(GPU, config) == pytest.approx(losses_on(CPU, config), rel=2e-3)


def test_a_step_that_is_not_finite_is_left_out() -> None:
    config = config_of("moe", {"train.on_nonfinite": "skip"})
    loop, _ = build_loop(config, device=GPU)
    loop.model.head.gates.weight.data[0, 0] = float("inf")
    before = {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}

    next(loop.steps(batches(config)))

    assert loop.progress.num_skipped == 1
    assert all(torch.equal(loop.model.state_dict()[name], tensor) for name, tensor in before.items())


def test_too_large_a_batch_says_what_to_lower() -> None:
    config = config_of("moe")
    loop, _ = build_loop(config, device=GPU)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        with pytest.raises(ValueError, match=r"train\.batch_size: step 1 needs more memory than cuda has"):
            next(loop.steps(batches(config)))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from yt8m_ray.config.optimizer import EMAConfig
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.data.format.features import VideoRow
from yt8m_ray.data.pipeline.batches import batches_of
from yt8m_ray.data.pipeline.packed_videos import PackedVideos
from yt8m_ray.data.pipeline.read_position import Position
from yt8m_ray.losses import build_loss
from yt8m_ray.metrics import build_metric
from yt8m_ray.models import build_model
from yt8m_ray.training.steps.loop import TrainingLoop
from yt8m_ray.training.steps.objective import Objective

NUM_VIDEOS = 40


def config_of(**train: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "run": {"name": "test"},
            "data": {"features": {"mean_rgb": 6}, "num_classes": 4},
            "model": {"name": "moe", "l2": 0.1},
            "train": {"batch_size": 8, "num_epochs": 3, **train},
        }
    )


def loop_of(config: TrainConfig, **options: Any) -> TrainingLoop:
    torch.manual_seed(0)
    model = build_model(config.model, feature_sizes=config.data.feature_sizes, num_classes=config.data.num_classes)
    device = torch.device("cpu")
    objective = Objective(model, build_loss(config.loss))
    return TrainingLoop(objective, config, device=device, **options)


def videos(config: TrainConfig, *, skip: frozenset[int] = frozenset()) -> Iterator[PackedVideos]:
    rng = np.random.default_rng(0)
    frames, labels = rng.normal(size=(NUM_VIDEOS, 1, 6)).astype(np.float32), rng.integers(0, 4, NUM_VIDEOS)
    rows = [VideoRow(str(i), frames[i], np.array([labels[i]], np.int32)) for i in range(NUM_VIDEOS)]
    packed = PackedVideos.from_rows(rows, config.data.spec, shard=0)
    left = packed.select(np.array([i for i in range(NUM_VIDEOS) if i not in skip]))
    return batches_of([left], batch_size=8)


def test_a_request_to_stop_ends_the_steps_behind_the_running_one() -> None:
    config = config_of()
    loop = loop_of(config, should_stop=lambda: loop.progress.step == 2)

    steps = list(loop.steps(videos(config)))

    assert loop.is_stopped
    assert steps == [1, 2, 3]
    assert loop.progress.position.num_done == 3 * 8  # no batch was taken and not trained on
    assert not loop.is_finished


def weights(loop: TrainingLoop) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}


def test_a_step_follows_the_gradient_of_the_mean_loss_plus_the_penalty() -> None:
    config = config_of(regularization_penalty=0.5)
    loop = loop_of(config)
    twin = loop_of(config).model
    optimizer = torch.optim.Adam(twin.parameters(), lr=config.optimizer.learning_rate)
    first = next(videos(config))
    frames = torch.nn.functional.normalize(torch.from_numpy(first.frames.copy()), dim=-1)[:, None]
    labels = torch.nn.functional.one_hot(torch.from_numpy(first.labels).long(), 4).float()
    logits = twin(frames, torch.ones(8, dtype=torch.int64))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / 8
    (loss + 0.5 * twin.regularization()).backward()
    for parameter in twin.parameters():
        assert parameter.grad is not None
        parameter.grad *= min(1.0, 1.0 / float(parameter.grad.norm()))
    optimizer.step()

    next(loop.steps(iter([first])))

    for name, expected in twin.state_dict().items():
        torch.testing.assert_close(loop.model.state_dict()[name], expected)


def test_an_epoch_counts_its_steps_and_videos() -> None:
    config = config_of()
    loop = loop_of(config)

    steps = list(loop.steps(videos(config)))

    assert steps == [1, 2, 3, 4, 5]
    assert loop.progress.num_examples == NUM_VIDEOS
    assert loop.progress.position.records(0).tolist() == list(range(NUM_VIDEOS))


def test_a_run_stops_at_its_number_of_steps() -> None:
    config = config_of(max_steps=2)
    loop = loop_of(config)

    assert list(loop.steps(videos(config))) == [1, 2]
    assert loop.is_finished


def test_a_run_continued_inside_an_epoch_equals_one_that_was_not_stopped() -> None:
    config = config_of()
    straight = loop_of(config)
    list(straight.steps(videos(config)))

    first = loop_of(config)
    stream = first.steps(videos(config))
    assert [next(stream), next(stream)] == [1, 2]
    state = {name: tensor.clone() for name, tensor in first.state(first.progress.position).items()}
    second = loop_of(config)
    second.model.load_state_dict(weights(first))
    second.load_state(state)
    position = Position.from_arrays(
        {name.removeprefix("position."): t.numpy() for name, t in state.items() if name.startswith("position.")}
    )
    steps = list(second.steps(videos(config, skip=frozenset(position.records(0).tolist()))))

    assert steps == [3, 4, 5]
    assert second.progress.num_examples == NUM_VIDEOS
    for name, expected in weights(straight).items():
        assert torch.equal(second.model.state_dict()[name], expected), name


def test_an_interval_without_a_step_reports_nothing() -> None:
    config = config_of()
    loop = loop_of(config)
    list(loop.steps(videos(config)))

    assert loop.interval()["train/loss"] > 0
    assert loop.interval() == {}


def test_the_loss_falls() -> None:
    config = config_of(regularization_penalty=0.0)
    loop = loop_of(config)
    losses = []
    for _ in range(20):
        loop.progress.position.start_epoch(0)
        list(loop.steps(videos(config)))
        losses.append(loop.interval()["train/loss"])

    assert losses[-1] < 0.85 * losses[0]


def test_a_loss_that_is_not_finite_stops_the_run_with_the_spoilt_video_and_the_last_good_step() -> None:
    config = config_of()
    loop = loop_of(config)
    batches = list(videos(config))
    batches[1].frames[3, 0] = np.nan

    with pytest.raises(FloatingPointError) as raised:
        list(loop.steps(iter(batches)))

    spoilt = batches[1].video_ids[3]
    assert f"step 2: the loss is nan: values that are not finite in videos {spoilt};" in str(raised.value)
    assert "the last finite step was 1 (loss " in str(raised.value)


def test_a_spoilt_weight_names_the_videos_of_its_step() -> None:
    config = config_of()
    loop = loop_of(config)
    next(loop.model.parameters()).data.fill_(np.nan)

    with pytest.raises(FloatingPointError, match="step 1: the loss is nan on videos 0, 1, 2, 3, 4, 5, 6, 7; "):
        next(loop.steps(videos(config)))


def test_a_step_that_is_left_out_changes_nothing_but_its_count() -> None:
    config = config_of(on_nonfinite="skip")
    loop = loop_of(config)
    before = weights(loop)
    spoilt = next(videos(config))
    spoilt.frames[3, 0] = np.nan

    assert list(loop.steps(iter([spoilt]))) == [1]

    assert all(torch.equal(loop.model.state_dict()[name], tensor) for name, tensor in before.items())
    assert loop.progress.num_skipped == 1
    assert loop.progress.num_examples == 8
    assert loop.interval()["train/skipped_steps"] == 1


def test_a_run_that_skips_every_step_stops() -> None:
    config = config_of(on_nonfinite="skip", num_epochs=99)
    loop = loop_of(config)
    next(loop.model.parameters()).data.fill_(np.nan)

    with pytest.raises(FloatingPointError, match="step 11: the loss is nan"):
        for epoch in range(3):
            loop.progress.position.start_epoch(epoch)
            list(loop.steps(videos(config)))


@pytest.mark.parametrize("accumulation", [2, 3, 16])
def test_a_batch_in_parts_gives_the_step_of_the_whole(accumulation: int) -> None:
    whole, parts = loop_of(config_of()), loop_of(config_of(accumulation=accumulation))
    for loop in (whole, parts):
        list(loop.steps(videos(config_of())))

    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-4, atol=1e-5)
    assert parts.interval()["train/loss"] == pytest.approx(whole.interval()["train/loss"], rel=1e-5)


def test_bytes_or_floats_to_the_device_are_the_same_to_it() -> None:
    first, second = loop_of(config_of()), loop_of(config_of(transfer="float32"))
    for loop in (first, second):
        list(loop.steps(videos(config_of())))

    assert all(torch.equal(first.model.state_dict()[name], tensor) for name, tensor in weights(second).items())


def test_the_gap_of_an_interval_is_that_of_the_videos_trained_on() -> None:
    config = config_of(log_every_steps=1)
    loop = loop_of(config)
    twin = loop_of(config).model
    first = next(videos(config))
    frames = torch.nn.functional.normalize(torch.from_numpy(first.frames.copy()), dim=-1)[:, None]
    expected = build_metric("gap")
    labels = torch.nn.functional.one_hot(torch.from_numpy(first.labels).long(), 4).float()
    expected.update(torch.sigmoid(twin(frames, torch.ones(8, dtype=torch.int64))).detach(), labels)

    next(loop.steps(iter([first])))

    assert loop.interval()["train/gap"] == pytest.approx(expected.compute(), abs=1e-6)


def test_the_moving_average_is_continued_where_it_was() -> None:
    config = config_of().model_copy(update={"ema": EMAConfig(decay=0.9, warm_up=True)})
    straight, first, second = (loop_of(config) for _ in range(3))
    batches = list(videos(config))
    list(straight.steps(iter(batches)))
    list(first.steps(iter(batches[:2])))
    assert straight.ema is not None
    assert first.ema is not None
    assert second.ema is not None
    second.model.load_state_dict(weights(first))
    second.load_state({name: tensor.clone() for name, tensor in first.state(first.progress.position).items()})
    second.ema.average.load_state_dict(first.ema.average.state_dict())

    list(second.steps(iter(batches[2:])))

    for name, expected in straight.ema.average.state_dict().items():
        assert torch.equal(second.ema.average.state_dict()[name], expected), name
        assert not torch.equal(straight.model.state_dict()[name], expected), name


def test_bfloat16_trains_and_keeps_float32_weights() -> None:
    config = config_of(precision="bfloat16")
    loop = loop_of(config)

    list(loop.steps(videos(config)))

    assert {tensor.dtype for tensor in loop.model.state_dict().values()} == {torch.float32}
    assert np.isfinite(loop.interval()["train/loss"])

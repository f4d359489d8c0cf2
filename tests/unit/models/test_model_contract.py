"""What `Model` promises, checked for every registered name at its smallest, and for the options of some of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from yt8m_ray.artifacts.checkpoint import DTYPES
from yt8m_ray.config.quantization import TransformConfig
from yt8m_ray.inference.quantization.int8_linear import Int8Linear
from yt8m_ray.inference.quantization.quantize import channel_axes, quantize_state
from yt8m_ray.inference.quantization.restore import restore_model
from yt8m_ray.losses import build_loss
from yt8m_ray.models import MODELS, Model, build_empty_model, build_model, build_model_for_weights
from yt8m_ray.models.layers import batch_norms
from yt8m_ray.models.recurrent import keep_scans_uncompiled

FEATURE_SIZES = (6, 4)
NUM_CLASSES = 5
NUM_FRAMES = torch.tensor([7, 3, 1, 5, 7, 2])
MAX_FRAMES = 7

SMALL: dict[str, Any] = {
    "num_clusters": 4,
    "hidden_dim": 6,
    "hidden_dims": (6, 5),
    "cell_dim": 8,
    "num_channels": 3,
    "relu_dim": 3,
    "max_frames": 7,
    "num_blocks": 3,
    "groups": 2,
}
"""Sizes for whatever fields of these names a family has, so that a new family is tested because it is registered."""

OPTIONS: dict[str, dict[str, Any]] = {
    "moe, low rank": {"name": "moe", "num_mixtures": 3, "low_rank": 2},
    "moe, gated by probabilities": {"name": "moe", "prob_gating": "prob"},
    "moe, gated by other probabilities": {"name": "moe", "prob_gating": "prob", "prob_gating_remove_diagonal": True},
    "moe, gated by input": {"name": "moe", "prob_gating": "input"},
    "netvlad, relu6, ungated": {"name": "netvlad", **SMALL, "use_relu": True, "gating": False},
    "netvlad, no batch norm": {"name": "netvlad", **SMALL, "batch_norm": False, "gating_remove_diagonal": True},
    "netvlad, logistic": {"name": "netvlad", **SMALL, "head": {"name": "logistic"}},
    "netvlad, gated head": {"name": "netvlad", **SMALL, "head": {"name": "moe", "prob_gating": "prob"}},
    "netvlad, random frames": {"name": "netvlad", **SMALL, "sampling": {"name": "random", "num_frames": 4}},
    "netvlad, a sequence": {"name": "netvlad", **SMALL, "sampling": {"name": "sequence", "num_frames": 4}},
    "light_vlad, gated": {"name": "light_vlad", **SMALL, "gating_remove_diagonal": True},
    "netfv, learned centres, gated": {"name": "netfv", **SMALL, "couple_weights": False, "gating": True},
    "netfv, no batch norm": {"name": "netfv", **SMALL, "batch_norm": False},
    "soft_dbof, maxima": {"name": "soft_dbof", **SMALL, "max_pool": True, "use_relu": False},
    "soft_dbof, no hidden layer": {"name": "soft_dbof", "num_clusters": 4, "hidden_dim": None},
    "gated_dbof, no hidden layer": {"name": "gated_dbof", "num_clusters": 4, "hidden_dim": 0},
    "gated_dbof, no batch norm": {"name": "gated_dbof", **SMALL, "batch_norm": False},
    "gated_dbof, maxima": {"name": "gated_dbof", **SMALL, "max_pool": True},
    "dbof, relu6 averages": {"name": "dbof", **SMALL, "activation": "relu6", "pooling": "average"},
    "dbof, no batch norm": {"name": "dbof", **SMALL, "batch_norm": False},
    "dbof, random frames": {"name": "dbof", **SMALL, "sampling": {"name": "random", "num_frames": 4}},
    "frame_attention, to padding": {"name": "frame_attention", "attend_to_padding": True, "max_frames": 9},
    "monn, all statistics": {
        "name": "monn",
        "hidden_dims": (6,),
        "statistics": ("cube_root_moment", "std_all", "std", "mean", "num_frames"),
    },
    "lstm, one layer": {"name": "lstm", **SMALL, "num_layers": 1},
    "bidirectional_lstm, shuffled": {"name": "bidirectional_lstm", **SMALL, "frame_shuffle": True},
    "bidirectional_gru, gated": {"name": "bidirectional_gru", **SMALL, "gating": True},
    "branched_gru, gated": {"name": "branched_gru", "gating": True},
    "hierarchical_lstm, more frames than it expects": {"name": "hierarchical_lstm", **SMALL, "max_frames": 4},
    "hierarchical_lstm, every second frame": {"name": "hierarchical_lstm", **SMALL, "every": 2, "num_blocks": 2},
    "netvlad, every second frame": {"name": "netvlad", **SMALL, "sampling": {"name": "uniform", "every": 2}},
    "netvlad, all frames and filler": {"name": "netvlad", **SMALL, "sampling": {"name": "sample_all", "num_frames": 5}},
    "netvlad, trimmed": {
        "name": "netvlad",
        **SMALL,
        "sampling": {"name": "trimmed", "start": 1, "end": 1, "num_frames": 2},
    },
    "netvlad, mixed logits": {"name": "netvlad", **SMALL, "head": {"name": "logit_moe", "dropout": 0}},
    "nextvlad, moe": {"name": "nextvlad", **SMALL, "expansion": 3, "head": {"name": "moe"}},
    "nextvlad, random frames": {"name": "nextvlad", **SMALL, "sampling": {"name": "random", "num_frames": 4}},
    "mix_nextvlad, 2 branches": {"name": "mix_nextvlad", **SMALL, "num_branches": 2, "temperature": 1, "dropout": 0.2},
    "nextvlad_2019, no batch norm of clusters": {"name": "nextvlad_2019", **SMALL, "cluster_bn": False},
    "nextvlad_2019, ungated": {
        "name": "nextvlad_2019",
        **SMALL,
        "se_reduction": None,
        "head": {"name": "logit_moe", "per_class": True, "batch_norm": False},
    },
    "gated_dbof_2019, ungated": {
        "name": "gated_dbof_2019",
        **SMALL,
        "frame_se_reduction": None,
        "se_reduction": None,
        "sampling": {"name": "all"},
    },
}


def small_config(name: str) -> dict[str, Any]:
    fields = MODELS.config_type(name).model_fields
    return {"name": name, **{field: size for field, size in SMALL.items() if field in fields}}


def without_draws(name: str) -> dict[str, Any]:
    """Returns a small config whose training draws nothing at random: no dropout, all frames."""
    fields = MODELS.config_type(name).model_fields
    config = small_config(name) | ({"dropout": 0.0} if "dropout" in fields else {})
    if "sampling" in fields:
        config["sampling"] = {"name": "all"}
    if "head" in fields and fields["head"].default.name == "logit_moe":
        config["head"] = {"name": "logit_moe", "dropout": 0.0}
    return config


CONFIGS = {name: small_config(name) for name in MODELS.names()}
for title, options in OPTIONS.items():
    known = MODELS.config_type(options["name"]).model_fields
    CONFIGS[title] = {field: value for field, value in options.items() if field in known or field not in SMALL}


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Model:
    """A model after one step of training, so that no weight and no moving statistic is at its start."""
    torch.manual_seed(0)
    model = build_model(CONFIGS[request.param], feature_sizes=FEATURE_SIZES, num_classes=NUM_CLASSES)
    with torch.no_grad():
        model(random_frames(), NUM_FRAMES)
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def random_frames(seed: int = 1) -> torch.Tensor:
    frames = torch.randn(len(NUM_FRAMES), MAX_FRAMES, sum(FEATURE_SIZES), generator=torch.Generator().manual_seed(seed))
    return frames.masked_fill(torch.arange(MAX_FRAMES)[:, None] >= NUM_FRAMES[:, None, None], 0)


def logits_of(model: Model, frames: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
    """Runs a copy, so that training mode leaves the model's moving statistics alone; draws are the same each time."""
    torch.manual_seed(2)
    with torch.no_grad():
        return copy.deepcopy(model)(frames, num_frames)


def test_logits_are_finite_with_one_row_a_clip_and_one_column_a_class(model: Model) -> None:
    logits = logits_of(model.eval(), random_frames(), NUM_FRAMES)
    assert logits.shape == (len(NUM_FRAMES), NUM_CLASSES)
    assert logits.isfinite().all()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("filler", [1e4, float("nan")])
def test_values_in_the_padding_do_not_matter(model: Model, training: bool, filler: float) -> None:
    model.train(training)
    padding = torch.arange(MAX_FRAMES)[:, None] >= NUM_FRAMES[:, None, None]
    torch.testing.assert_close(
        logits_of(model, random_frames().masked_fill(padding, filler), NUM_FRAMES),
        logits_of(model, random_frames(), NUM_FRAMES),
    )


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_length_of_the_padding_does_not_matter(model: Model, training: bool) -> None:
    model.train(training)
    longer = torch.nn.functional.pad(random_frames(), (0, 0, 0, 6))
    torch.testing.assert_close(
        logits_of(model, longer, NUM_FRAMES),
        logits_of(model, random_frames(), NUM_FRAMES),
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_other_clips_of_a_batch_do_not_matter_in_eval_mode(model: Model) -> None:
    model.eval()
    together = logits_of(model, random_frames(), NUM_FRAMES)
    for row in range(len(NUM_FRAMES)):
        alone = logits_of(model, random_frames()[row : row + 1], NUM_FRAMES[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


def test_eval_mode_repeats_itself(model: Model) -> None:
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(random_frames(), NUM_FRAMES), model(random_frames(), NUM_FRAMES))


@pytest.mark.parametrize("num_frames", [0, 1], ids=["no frame", "one frame"])
@pytest.mark.parametrize("max_frames", [1, 4])
def test_clips_of_at_most_one_frame_have_finite_logits(model: Model, num_frames: int, max_frames: int) -> None:
    frames = random_frames()[:2, :max_frames]
    for training in (True, False):
        logits = logits_of(model.train(training), frames, torch.full((2,), num_frames))
        assert logits.shape == (2, NUM_CLASSES)
        assert logits.isfinite().all()


@pytest.mark.parametrize("max_frames", [0, 7])
def test_a_batch_without_clips_gives_zero_gradients_to_every_parameter(model: Model, max_frames: int) -> None:
    logits = model(torch.zeros(0, max_frames, sum(FEATURE_SIZES)), torch.zeros(0, dtype=torch.int64))
    assert logits.shape == (0, NUM_CLASSES)
    logits.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_a_batch_without_clips_leaves_the_moving_statistics_alone(model: Model) -> None:
    before = copy.deepcopy(dict(model.named_buffers()))
    model(torch.zeros(0, MAX_FRAMES, sum(FEATURE_SIZES)), torch.zeros(0, dtype=torch.int64))
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_every_parameter_gets_a_gradient(model: Model) -> None:
    logits = model(random_frames(), NUM_FRAMES)
    (logits * torch.randn(logits.shape)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_the_loss_is_finite_with_a_gradient_and_zero_for_a_batch_without_clips(model: Model) -> None:
    criterion = build_loss({"name": "cross_entropy"})
    labels = (torch.rand(len(NUM_FRAMES), NUM_CLASSES) < 0.3).float()
    loss = model.loss(random_frames(), NUM_FRAMES, labels, criterion)
    loss.backward()
    assert loss.shape == () and loss.isfinite()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    nothing = model.loss(random_frames()[:0], NUM_FRAMES[:0], labels[:0], criterion)
    nothing.backward()
    assert float(nothing.detach()) == 0


def test_a_loaded_state_dict_gives_the_same_logits(model: Model, request: pytest.FixtureRequest) -> None:
    model.eval()
    loaded = build_model(
        CONFIGS[request.node.callspec.params["model"]], feature_sizes=FEATURE_SIZES, num_classes=NUM_CLASSES
    ).eval()
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(logits_of(loaded, random_frames(), NUM_FRAMES), logits_of(model, random_frames(), NUM_FRAMES))


needs_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="no instructions for bfloat16: training takes float32 on this CPU, and torch has no LSTM",
)


@needs_bfloat16
def test_bfloat16_autocast_stays_near_float32(model: Model) -> None:
    model.eval()
    exact = torch.sigmoid(logits_of(model, random_frames(), NUM_FRAMES))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = torch.sigmoid(logits_of(model, random_frames(), NUM_FRAMES).float())
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05)


@needs_bfloat16
def test_bfloat16_autocast_trains(model: Model) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(random_frames(), NUM_FRAMES)
    logits.float().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS.names())
def test_training_fits_a_few_clips(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(small_config(name), feature_sizes=FEATURE_SIZES, num_classes=NUM_CLASSES)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    labels = torch.eye(NUM_CLASSES)[torch.arange(len(NUM_FRAMES)) % NUM_CLASSES]
    criterion = build_loss({"name": "cross_entropy"})
    losses = []
    for _ in range(100):
        loss = model.loss(random_frames(), NUM_FRAMES, labels, criterion)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-10:]) < 0.5 * losses[0]


@pytest.mark.soak
@pytest.mark.parametrize("name", MODELS.names())
def test_a_compiled_model_has_the_same_logits_and_gradients(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(without_draws(name), feature_sizes=FEATURE_SIZES, num_classes=NUM_CLASSES)
    outcomes = []
    keep_scans_uncompiled()
    for forward in (model, torch.compile(copy.deepcopy(model))):
        torch.manual_seed(2)
        logits = forward(random_frames(), NUM_FRAMES)
        (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
        outcomes.append([logits.detach(), *(parameter.grad for parameter in forward.parameters())])
    torch._dynamo.reset()
    torch.testing.assert_close(outcomes[1], outcomes[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("transform", ["int8", "int4"])
def test_an_export_that_multiplies_integers_stays_near_float32(
    transform: str, model: Model, request: pytest.FixtureRequest
) -> None:
    spread_batch_norms(model)
    model.eval()
    exact = torch.sigmoid(logits_of(model, random_frames(), NUM_FRAMES))
    config = TransformConfig.model_validate({"name": transform, "min_elements": 0, "group_size": 4})
    stored = quantize_state(model.state_dict(), channel_axes(model), config)

    name = request.node.callspec.params["model"]
    empty = build_model_for_weights(CONFIGS[name], feature_sizes=FEATURE_SIZES, num_classes=NUM_CLASSES)
    restored = restore_model(empty, stored)

    assert stored == {}
    assert any(isinstance(module, Int8Linear) for module in restored.modules())
    found = torch.sigmoid(logits_of(restored, random_frames(), NUM_FRAMES))
    torch.testing.assert_close(found, exact, rtol=0, atol={"int8": 0.03, "int4": 0.1}[transform])


def test_a_model_is_built_without_storage_too(model: Model, request: pytest.FixtureRequest) -> None:
    config = CONFIGS[request.node.callspec.params["model"]]

    empty = build_empty_model(config, feature_sizes=FEATURE_SIZES, num_classes=NUM_CLASSES)

    assert empty is not None
    outline = {name: (tensor.shape, tensor.dtype, tensor.device.type) for name, tensor in empty.state_dict().items()}
    assert outline == {name: (tensor.shape, tensor.dtype, "meta") for name, tensor in model.state_dict().items()}
    assert {tensor.dtype for tensor in model.state_dict().values()} <= DTYPES.keys()


def spread_batch_norms(model: Model) -> None:
    """Gives batch norms statistics and factors as training would: negative ones too."""
    model.train()
    model(random_frames(), NUM_FRAMES)
    for norm in batch_norms(model).values():
        norm.gamma.data.uniform_(-1, 1)
        norm.beta.data.uniform_(-1, 1)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_extreme_frames_give_finite_logits_and_gradients(model: Model, training: bool) -> None:
    model.train(training)
    logits = model(random_frames() * 1e4, NUM_FRAMES)
    assert logits.isfinite().all()
    logits.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_l2_term_is_a_positive_scalar_with_a_gradient(model: Model) -> None:
    term = model.regularization()
    assert term.shape == ()
    assert term > 0
    term.backward()
    assert any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS.names())
def test_an_unknown_field_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="num_clutsers"):
        build_model({"name": name, "num_clutsers": 8}, feature_sizes=FEATURE_SIZES, num_classes=NUM_CLASSES)


@pytest.mark.parametrize("name", MODELS.names())
def test_a_config_survives_being_dumped_and_parsed(name: str) -> None:
    config = MODELS.parse(CONFIGS[name])
    assert MODELS.parse(config.model_dump(mode="json")) == config


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"found feature_sizes \(6, 0\) and num_classes 5"):
        build_model({"name": "logistic"}, feature_sizes=(6, 0), num_classes=5)

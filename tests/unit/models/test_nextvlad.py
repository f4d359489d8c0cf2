"""NeXtVLAD against loops over clips, frames, groups and clusters, and what the mixture of several minimizes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from yt8m_ray.losses import build_loss
from yt8m_ray.models import Model, build_model
from yt8m_ray.models.layers import BatchNorm
from yt8m_ray.models.nextvlad import NeXtVLAD

FEATURE_DIM, NUM_CLUSTERS, GROUPS, EXPANSION = 6, 4, 3, 2
GROUP_DIM = EXPANSION * FEATURE_DIM // GROUPS
FRAMES = torch.randn(2, 5, FEATURE_DIM, generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
SIZES = (6, 4)
SMALL = {"num_clusters": 4, "hidden_dim": 6, "groups": 2}


def randomize(module: nn.Module) -> None:
    """Moves every weight and statistic away from its start, variances upwards."""
    torch.manual_seed(0)
    for name, tensor in module.state_dict().items():
        noise = 0.3 * torch.randn_like(tensor)
        tensor.add_(noise.abs() if name.endswith("variance") else noise)


def build_layer(cluster_normalization: str) -> NeXtVLAD:
    layer = NeXtVLAD(
        FEATURE_DIM,
        num_clusters=NUM_CLUSTERS,
        groups=GROUPS,
        expansion=EXPANSION,
        cluster_normalization=cluster_normalization,  # type: ignore[arg-type]
        batch_norm=functools.partial(BatchNorm, momentum=0.1),
    )
    randomize(layer)
    return layer.eval()


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def normalized(values: np.ndarray, bn: BatchNorm) -> np.ndarray:
    scale = array(bn.gamma) / np.sqrt(array(bn.moving_variance) + bn.epsilon)
    return (values - array(bn.moving_mean)) * scale + array(bn.beta)


def affine(values: np.ndarray, linear: nn.Linear) -> np.ndarray:
    product = array(linear.weight) @ values
    return product if linear.bias is None else product + array(linear.bias)


def looped_descriptor(layer: NeXtVLAD, frames: np.ndarray) -> np.ndarray:
    """Returns the descriptor of one clip from its real frames [T, D], one frame, group and cluster at a time."""
    vlad = np.zeros((GROUP_DIM, NUM_CLUSTERS))
    for frame in frames:
        wide = affine(frame, layer.widen)
        attention = 1 / (1 + np.exp(-affine(wide, layer.attention)))
        logits = affine(wide, layer.cluster_weights)
        if layer.cluster_bn is not None and not layer.shares_cluster_bn:
            logits = normalized(logits, layer.cluster_bn)
        for group in range(GROUPS):
            group_logits = logits[group * NUM_CLUSTERS : (group + 1) * NUM_CLUSTERS]
            if layer.cluster_bn is not None and layer.shares_cluster_bn:
                group_logits = normalized(group_logits, layer.cluster_bn)
            assignment = np.exp(group_logits) / np.exp(group_logits).sum()
            piece = wide[group * GROUP_DIM : (group + 1) * GROUP_DIM]
            for cluster in range(NUM_CLUSTERS):
                residual = piece - array(layer.centers)[:, cluster]
                vlad[:, cluster] += attention[group] * assignment[cluster] * residual
    vlad /= np.sqrt((vlad**2).sum(axis=0))
    return normalized(vlad.reshape(-1), layer.bn)


@pytest.mark.parametrize("cluster_normalization", ["batch_norm", "shared_batch_norm", "bias"])
def test_a_descriptor_sums_residuals_by_assignment_and_attention(cluster_normalization: str) -> None:
    layer = build_layer(cluster_normalization)
    found = layer(FRAMES, MASK).detach()
    for row in range(2):
        expected = looped_descriptor(layer, array(FRAMES[row][MASK[row]]))
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-5)


def test_shared_statistics_are_those_of_all_groups_of_all_real_frames() -> None:
    layer = build_layer("shared_batch_norm").train()
    assert layer.cluster_bn is not None
    before = layer.cluster_bn.moving_mean.clone()
    layer(FRAMES, MASK)
    logits = array(layer.cluster_weights(layer.widen(FRAMES)))[MASK.numpy()].reshape(-1, GROUPS, NUM_CLUSTERS)
    expected = 0.9 * array(before) + 0.1 * logits.mean(axis=(0, 1))
    np.testing.assert_allclose(layer.cluster_bn.moving_mean, expected, rtol=1e-5, atol=1e-6)


def test_groups_that_do_not_divide_the_widened_feature_are_refused() -> None:
    with pytest.raises(ValueError, match=r"groups: 5 groups need .* found expansion 2 \* 6 = 12"):
        build_model({"name": "nextvlad", **SMALL, "groups": 5}, feature_sizes=SIZES, num_classes=3)


def test_later_features_have_half_the_clusters_and_groups() -> None:
    model: Any = build_model({"name": "nextvlad", **SMALL}, feature_sizes=SIZES, num_classes=3)
    first, second = model.encoder.vlads
    assert (first.groups, first.centers.shape[1]) == (2, 4)
    assert (second.groups, second.centers.shape[1]) == (1, 2)


def test_the_published_2019_model_keeps_its_groups_for_later_features() -> None:
    model: Any = build_model({"name": "nextvlad_2019", **SMALL}, feature_sizes=SIZES, num_classes=3)
    first, second = model.vlads
    assert (first.groups, first.centers.shape[1]) == (2, 4)
    assert (second.groups, second.centers.shape[1]) == (2, 2)


def test_2019_assignments_start_as_a_softmax_over_distances_to_the_centres() -> None:
    torch.manual_seed(0)
    model: Any = build_model(
        {"name": "nextvlad_2019", **SMALL, "cluster_bn": False}, feature_sizes=SIZES, num_classes=3
    )
    layer = model.vlads[0]
    wide = torch.randn(12)
    logits = array(layer.cluster_weights(wide)).reshape(2, 4)
    repeated = np.tile(array(layer.centers).T, 2)  # [K, G * d]
    distances = ((array(wide) - repeated) ** 2).sum(axis=1)
    for group in range(2):
        np.testing.assert_allclose(
            logits[group] - logits[group, 0], -100 * (distances - distances[0]), rtol=1e-3, atol=1e-2
        )


def test_2019_dropout_leaves_out_whole_clusters() -> None:
    torch.manual_seed(0)
    model: Any = build_model({"name": "nextvlad_2019", **SMALL, "dropout": 0.5}, feature_sizes=SIZES, num_classes=3)
    dropped = model._drop_clusters(torch.ones(50, 6 * 4), 4).reshape(50, 6, 4)
    assert torch.equal(dropped, dropped[:, :1].expand(-1, 6, -1))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}


def build_mixture(**options: Any) -> Model:
    torch.manual_seed(0)
    config = {"name": "mix_nextvlad", **SMALL, "dropout": 0, **options}
    model = build_model(config, feature_sizes=SIZES, num_classes=5)
    randomize(model)
    return model.eval()


CLIPS = torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(2))
NUM_FRAMES = torch.tensor([4, 2, 1])
LABELS = torch.tensor([[1.0, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 1, 0, 0, 0]])


def branch_logits(model: Any) -> list[np.ndarray]:
    frames = CLIPS.masked_fill(torch.arange(4)[None, :, None] >= NUM_FRAMES[:, None, None], 0)
    mask = torch.arange(4) < NUM_FRAMES[:, None]
    return [array(head(encoder(frames, mask))) for head, encoder in zip(model.heads, model.encoders, strict=True)]


def looped_mixture(model: Any) -> np.ndarray:
    mixture = np.zeros((3, 5))
    for row in range(3):
        mean = array(CLIPS[row, : NUM_FRAMES[row]]).mean(axis=0)
        weights = np.exp(affine(normalized(mean, model.mixture_bn), model.mixture_weights))
        for weight, logits in zip(weights / weights.sum(), branch_logits(model), strict=True):
            mixture[row] += weight * logits[row]
    return mixture


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


def test_a_mixtures_logits_are_those_of_its_branches_weighed_by_the_mean_frame() -> None:
    model = build_mixture()
    np.testing.assert_allclose(model(CLIPS, NUM_FRAMES).detach(), looped_mixture(model), rtol=1e-4, atol=1e-5)


def test_what_a_mixture_minimizes_under_autocast_is_mixed_in_float32() -> None:
    model = build_mixture()
    seen = []

    def criterion(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(logits.dtype)
        return logits.sum()

    with torch.autocast("cpu", torch.bfloat16):
        model.loss(CLIPS, NUM_FRAMES, LABELS, criterion)
    assert set(seen) == {torch.float32}


def test_a_mixture_minimizes_its_own_loss_its_branches_losses_and_their_divergence_from_it() -> None:
    model = build_mixture(temperature=2.0, kl_weight=7.0)
    criterion = build_loss({"name": "cross_entropy"})
    mixture, branches = looped_mixture(model), branch_logits(model)
    expected = sum(float(criterion(torch.from_numpy(logits), LABELS)) for logits in [mixture, *branches])
    for logits in branches:
        for row in range(3):
            p, q = softmax(mixture[row] / 2), softmax(logits[row] / 2)
            expected += 7 / 3 * float((p * np.log(p / q)).sum())
    found = model.loss(CLIPS, NUM_FRAMES, LABELS, criterion)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_mixture_learns_from_its_distance_to_the_branches() -> None:
    model: Any = build_mixture()
    model.loss(CLIPS, NUM_FRAMES, LABELS, lambda logits, _: 0 * logits.sum()).backward()
    assert model.mixture_weights.weight.grad.any()

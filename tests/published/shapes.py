"""The variables of the published models that section H.5 of the 2018 reference does not list, by size."""

from __future__ import annotations

from collections.abc import Sequence

Shapes = dict[str, tuple[int, ...]]


def norm(scope: str, dim: int) -> Shapes:
    return {f"{scope}/{name}": (dim,) for name in ("beta", "gamma", "moving_mean", "moving_variance")}


def linear(scope: str, inputs: int, outputs: int) -> Shapes:
    return {f"{scope}/weights": (inputs, outputs), f"{scope}/biases": (outputs,)}


def below(scope: str, shapes: Shapes) -> Shapes:
    return {f"{scope}/{name}": shape for name, shape in shapes.items()}


def moe(dim: int, num_classes: int, num_mixtures: int = 2, *, gate_dim: int | None = None) -> Shapes:
    gates = {"gates/weights": (dim if gate_dim is None else gate_dim, num_classes * (num_mixtures + 1))}
    return gates | linear("experts", dim, num_classes * num_mixtures)


def logit_moe(dim: int, num_classes: int, num_mixtures: int, *, per_class: bool) -> Shapes:
    gates = (num_classes if per_class else 1) * (num_mixtures + 1)
    experts = norm("experts_bn", dim) | linear("experts", dim, num_classes * num_mixtures)
    return experts | norm("gates_bn", dim) | linear("gates", dim, gates)


def stacked_lstm(scope: str, dim: int, cell_dim: int, num_layers: int = 2) -> Shapes:
    shapes: Shapes = {}
    for i in range(num_layers):
        cell = f"{scope}/multi_rnn_cell/cell_{i}/basic_lstm_cell"
        shapes |= {f"{cell}/kernel": (dim + cell_dim, 4 * cell_dim), f"{cell}/bias": (4 * cell_dim,)}
        dim = cell_dim
    return shapes


def gru_cell(scope: str, dim: int, cell_dim: int) -> Shapes:
    shapes: Shapes = {}
    for part, width in (("gates", 2 * cell_dim), ("candidate", cell_dim)):
        cell = f"{scope}/multi_rnn_cell/cell_0/gru_cell/{part}"
        shapes |= {f"{cell}/kernel": (dim + cell_dim, width), f"{cell}/bias": (width,)}
    return shapes


def bidirectional_lstm(dim: int, cell_dim: int) -> Shapes:
    ways = [stacked_lstm(f"bidirectional_rnn/{way}", dim, cell_dim // 2, 1) for way in ("fw", "bw")]
    return ways[0] | ways[1] | stacked_lstm("rnn", cell_dim, cell_dim, 1)


def bidirectional_gru(dim: int, cell_dim: int) -> Shapes:
    ways = [gru_cell(f"bidirectional_rnn/{way}", dim, cell_dim // 2) for way in ("fw", "bw")]
    return ways[0] | ways[1] | gru_cell("rnn", cell_dim, cell_dim)


def dbof(dim: int, num_clusters: int, hidden_dim: int) -> Shapes:
    clusters = {"cluster_weights": (dim, num_clusters)} | norm("cluster_bn", num_clusters)
    hidden = {"hidden1_weights": (num_clusters, hidden_dim)} | norm("hidden1_bn", hidden_dim)
    return norm("input_bn", dim) | clusters | hidden


def gru_dbof_hybrid(dim: int, cell_dim: int, num_clusters: int, hidden_dim: int, num_classes: int) -> Shapes:
    parts = bidirectional_gru(dim, cell_dim) | dbof(dim, num_clusters, hidden_dim)
    return parts | moe(cell_dim + hidden_dim, num_classes)


def lstm_pair(dim: int, cell_dim: int, num_classes: int) -> Shapes:
    pair = stacked_lstm("even/rnn", dim, cell_dim) | stacked_lstm("odd/rnn", dim, cell_dim)
    return pair | moe(4 * cell_dim, num_classes)


def hierarchical_lstm(dim: int, cell_dim: int, num_classes: int) -> Shapes:
    lower, upper = stacked_lstm("L1/rnn", dim, cell_dim), stacked_lstm("L2/rnn", 4 * cell_dim, cell_dim)
    return lower | upper | moe(4 * cell_dim, num_classes)


def nextvlad_layer(dim: int, num_clusters: int, groups: int, expansion: int = 2, *, cluster_norm: int = 0) -> Shapes:
    """Returns one branch; `cluster_norm` is the size of its batch norm if that is not all logits, -1 for biases."""
    wide = expansion * dim
    logits = groups * num_clusters
    assigned = {"cluster_biases": (logits,)} if cluster_norm < 0 else norm("cluster_bn", cluster_norm or logits)
    return (
        linear("fully_connected", dim, wide)
        | linear("fully_connected_1", wide, groups)
        | {"cluster_weights": (wide, logits), "cluster_weights2": (1, wide // groups, num_clusters)}
        | assigned
        | norm("vlad_bn", wide // groups * num_clusters)
    )


def nextvlad(
    sizes: tuple[int, int],
    num_clusters: int,
    groups: int,
    hidden_dim: int,
    num_classes: int,
    *,
    gating_reduction: int = 8,
    expansion: int = 2,
) -> Shapes:
    """Returns NeXtVLADModel of 2019 B.12."""
    K, G, squeezed = num_clusters, groups, hidden_dim // gating_reduction
    width = expansion * (sizes[0] // G * K + sizes[1] // (G // 2) * (K // 2))
    return (
        below("video_VLAD", nextvlad_layer(sizes[0], K, G, expansion))
        | below("audio_VLAD", nextvlad_layer(sizes[1], K // 2, G // 2, expansion))
        | {"hidden1_weights": (width, hidden_dim)}
        | norm("hidden1_bn", hidden_dim)
        | {"gating_weights_1": (hidden_dim, squeezed), "gating_weights_2": (squeezed, hidden_dim)}
        | norm("gating_bn", squeezed)
        | linear("fully_connected", hidden_dim, num_classes)
    )


def mix_nextvlad(branch: Shapes, dim: int, num_branches: int = 3) -> Shapes:
    """Returns MixNeXtVLAD of 2019 B.12 from one of its branches."""
    shapes = norm("mixture_bn", dim) | linear("mixture", dim, num_branches)
    for m in range(num_branches):
        shapes |= below(f"branch_{m}", branch)
    return shapes


def squeeze_excite(scope: str, dim: int, reduction: int) -> Shapes:
    """Returns BNSE of 2019 B.2; nothing for a reduction of 0."""
    if not reduction:
        return {}
    squeezed = dim // reduction
    first = norm("bn_1", dim) | linear("squeeze", dim, squeezed)
    return below(scope, first | norm("bn_2", squeezed) | linear("excite", squeezed, dim))


def nextvlad_moe(
    sizes: tuple[int, int],
    num_clusters: int,
    groups: int,
    hidden_dim: int,
    num_classes: int,
    *,
    num_mixtures: int = 4,
    per_class: bool = False,
    reduction: int = 4,
    batch_norm: bool = True,
    expansion: int = 2,
) -> Shapes:
    """Returns NeXtVLADModel of 2019 B.4."""
    K, G = num_clusters, groups
    width = expansion * (sizes[0] // G * K + sizes[1] * (K // 2) // G)
    return (
        below("video_VLAD", nextvlad_layer(sizes[0], K, G, expansion, cluster_norm=K if batch_norm else -1))
        | below("audio_VLAD", nextvlad_layer(sizes[1], K // 2, G, expansion, cluster_norm=K // 2 if batch_norm else -1))
        | {"hidden1_weights": (width, hidden_dim), "hidden1_biases": (hidden_dim,)}
        | squeeze_excite("video_se", hidden_dim, reduction)
        | logit_moe(hidden_dim, num_classes, num_mixtures, per_class=per_class)
    )


def gated_dbof_moe(
    dim: int,
    hidden_dim: int,
    fc_dim: int,
    num_classes: int,
    *,
    num_mixtures: int = 4,
    per_class: bool = False,
    frame_reduction: int = 8,
    reduction: int = 4,
) -> Shapes:
    """Returns GatedDBoFModel of 2019 B.4."""
    return (
        linear("fully_connected", dim, hidden_dim)
        | squeeze_excite("frame_se", hidden_dim, frame_reduction)
        | norm("pooled_bn", 2 * hidden_dim)
        | {"hidden1_weights": (2 * hidden_dim, fc_dim)}
        | squeeze_excite("video_se", fc_dim, reduction)
        | logit_moe(fc_dim, num_classes, num_mixtures, per_class=per_class)
    )


def monn(dim: int, hidden_dims: Sequence[int], num_classes: int, num_mixtures: int = 3) -> Shapes:
    shapes: Shapes = {}
    width = dim
    for i, hidden_dim in enumerate(hidden_dims, 1):
        shapes |= linear(f"hidden_{i}", width, hidden_dim)
        width = hidden_dim
    return shapes | moe(width, num_classes, num_mixtures, gate_dim=dim)


def cnn_mean_max(dim: int, channels: int, num_classes: int) -> Shapes:
    shapes: Shapes = {}
    for i, kernel in enumerate((1, 5, 3, 5) * 2):
        shapes |= {f"conv_{i}/weights": (kernel, dim, channels), f"conv_{i}/biases": (channels,)}
    return shapes | moe(8 * channels, num_classes)


def chain(dim: int, num_layers: int, cells: int, num_classes: int) -> Shapes:
    shapes: Shapes = {}
    for i in range(num_layers):
        layer = moe(dim + i * cells, num_classes) | linear("fully_connected", num_classes, cells)
        shapes |= below(f"layer_{i}", layer)
    return shapes | moe(dim + num_layers * cells, num_classes)

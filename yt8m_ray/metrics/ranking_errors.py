"""Logits and labels -> how wrong a model is about each video."""

from __future__ import annotations

import torch


def ranking_errors(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns how badly each video's labels are ranked, float32 [B]: 1 - its average precision over all classes.

    It is 0 where all labels stand before all other classes, and where there is no label. What GAP counts is ranks, too,
    so that weights follow what is measured and not how sure the model is. Equal logits are in any order.

    Args:
        logits: [B, C].
        labels: Multi-hot [B, C].
    """
    hits = labels.gather(1, logits.argsort(dim=1, descending=True)).float()
    ranks = torch.arange(1, labels.shape[1] + 1, device=labels.device)
    num_labels = hits.sum(dim=1)
    precision = (hits * hits.cumsum(dim=1) / ranks).sum(dim=1) / num_labels.clamp(min=1)
    return torch.where(num_labels > 0, 1 - precision, 0.0).clamp(0.0, 1.0)

"""How wrong a model is about each video."""

from __future__ import annotations

import torch


def ranking_errors(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns 1 - each video's average precision over all classes, float32 [B]; 0 without labels.

    Labels are multi-hot [B, C]; equal logits [B, C] rank in any order.
    """
    # Ranks, as in GAP: weights made of these errors follow what is measured, not how sure the model is.
    hits = labels.gather(1, logits.argsort(dim=1, descending=True)).float()
    ranks = torch.arange(1, labels.shape[1] + 1, device=labels.device)
    num_labels = hits.sum(dim=1)
    precision = (hits * hits.cumsum(dim=1) / ranks).sum(dim=1) / num_labels.clamp(min=1)
    return torch.where(num_labels > 0, 1 - precision, 0.0).clamp(0.0, 1.0)

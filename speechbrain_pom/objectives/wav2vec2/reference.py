"""Slow, obvious version of wav2vec 2.0's losses: the truth that the fast path is tested against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def contrastive_loss(
    x: torch.Tensor, y: torch.Tensor, negatives: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, float]:
    """The loss of one utterance, frame by frame: x, y (T, C), negatives (T, K)."""
    loss_sum, num_correct = x.new_zeros(()), 0
    for t in range(len(x)):
        others = [y[j] for j in negatives[t].tolist() if not torch.equal(y[j], y[t])]
        compared = torch.stack([y[t], *others])
        logits = F.cosine_similarity(x[t].unsqueeze(0), compared, dim=-1) / temperature
        loss_sum = loss_sum - logits.log_softmax(0)[0]
        num_correct += int(logits.argmax() == 0)
    return loss_sum, num_correct / len(x)


def diversity_loss(logits: torch.Tensor) -> torch.Tensor:
    """Of logits (N, G, V)."""
    _, groups, num_codes = logits.shape
    total = groups * num_codes
    perplexity = 0.0
    for group in range(groups):
        shares = logits[:, group].softmax(-1).mean(0)
        perplexity = perplexity + torch.exp(-sum(p * torch.log(p + 1e-7) for p in shares))
    return (total - perplexity) / total


def loss(
    x: Sequence[torch.Tensor],
    y: Sequence[torch.Tensor],
    negatives: Sequence[torch.Tensor],
    logits: torch.Tensor,
    temperature: float,
    diversity_weight: float,
) -> torch.Tensor:
    """The whole loss of a batch: lists of utterances, and the logits of all of their frames."""
    parts = zip(x, y, negatives, strict=True)
    contrast = sum(contrastive_loss(*part, temperature)[0] for part in parts)
    return contrast + diversity_weight * len(logits) * diversity_loss(logits)

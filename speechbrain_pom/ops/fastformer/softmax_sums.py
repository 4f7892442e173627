"""Sums over time with softmax weights; those of the parts of a sequence add up."""

from typing import NamedTuple

import torch
from torch import Tensor

from speechbrain_pom.ops.common.precision import compute_dtype
from speechbrain_pom.ops.common.sums import zero_padding


class SoftmaxSums(NamedTuple):
    """As `TimeSums`, for a mean with softmax weights: exp(score - peak) times the values.

    Arguments
    ---------
    sums : torch.Tensor
        (B, nhead, d): weighted values, of each head.
    weights : torch.Tensor
        (B, nhead, 1): sums of the weights.
    peaks : torch.Tensor
        (B, nhead, 1): the largest scores.
    global_query : torch.Tensor, optional
        (B, 1, d): what the scores depend on, if anything.

    Example
    -------
    >>> scores, values = torch.randn(1, 5, 1), torch.randn(1, 5, 2)
    >>> parts = [softmax_sums(scores[:, t:t + 2], values[:, t:t + 2], None) for t in (0, 2, 4)]
    >>> whole = parts[0] + parts[1] + parts[2]
    >>> torch.allclose(whole.mean(), scores.softmax(1).transpose(1, 2) @ values, atol=1e-6)
    True
    """

    sums: Tensor
    weights: Tensor
    peaks: Tensor
    global_query: Tensor | None = None

    def __add__(self, other: "SoftmaxSums") -> "SoftmaxSums":
        peaks = torch.maximum(self.peaks, other.peaks)
        mine, theirs = (self.peaks - peaks).exp(), (other.peaks - peaks).exp()
        return SoftmaxSums(
            mine * self.sums + theirs * other.sums,
            mine * self.weights + theirs * other.weights,
            peaks,
            self.global_query,
        )

    def mean(self) -> Tensor:
        """(B, nhead, d); zeros for an utterance without a frame."""
        return self.sums / self.weights.clamp(min=torch.finfo(self.weights.dtype).tiny)


def masked_scores(scores: Tensor, padding: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Scores (B, T, nhead) in a dtype, the smallest number where there is padding.

    Not -inf: the softmax of an utterance that is all padding is then not NaN.
    """
    scores = scores.to(dtype)
    if padding is None:
        return scores
    return scores.masked_fill(padding.unsqueeze(-1), torch.finfo(dtype).min)


def softmax_sums(scores: Tensor, values: Tensor, padding: Tensor | None) -> SoftmaxSums:
    """The sums over a sequence, or a part of one, in fp32 or better.

    Scores are (B, T, nhead); values are (B, T, d), and finite in the padding too.
    """
    dtype = compute_dtype(values.dtype)
    scores = masked_scores(scores, padding, dtype)
    peaks = scores.amax(1, keepdim=True)
    weights = zero_padding((scores - peaks).exp(), padding).transpose(1, 2)
    with torch.autocast(values.device.type, enabled=False):
        sums = weights @ values.to(dtype)
    return SoftmaxSums(sums, weights.sum(2, keepdim=True), peaks.transpose(1, 2))

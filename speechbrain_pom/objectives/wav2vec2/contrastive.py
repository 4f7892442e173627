"""The contrastive loss of wav2vec 2.0 as a function: similarities within each utterance.

Equations: README.md in this folder. Slow version: reference.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from speechbrain_pom.ops.common.precision import compute_dtype
from speechbrain_pom.utils.errors import UserError


class Contrast(NamedTuple):
    """What `contrast` finds, as sums over the frames of a batch.

    Arguments
    ---------
    loss_sum : torch.Tensor
        Scalar with gradient, in nats.
    num_correct : torch.Tensor
        Frames whose target is at least as similar as every negative that counts.
    num_dropped : torch.Tensor
        Negatives that do not count, as their target is that of the frame.
    """

    loss_sum: torch.Tensor
    num_correct: torch.Tensor
    num_dropped: torch.Tensor


def contrastive_loss(
    x: torch.Tensor,
    y: torch.Tensor,
    negatives: torch.Tensor,
    temperature: float | torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tell the target of each frame from the targets of others (wav2vec 2.0, equation 3).

    A negative whose target equals that of the frame is left out of the sum. The loss is in fp32
    or better, whatever the dtype and autocast.

    Arguments
    ---------
    x : torch.Tensor
        Predictions (B, T, C), or (N, C): the frames of all utterances one after the other.
    y : torch.Tensor
        Targets, of the same shape.
    negatives : torch.Tensor
        (B, T, K) integers, frames of the same utterance; or (N, K), rows of `y`. Frames that are
        each other's negatives should lie close together: memory grows with the square of the
        longest run of rows that negatives tie together, an utterance.
    temperature : float or torch.Tensor
        What the cosine similarities are divided by.

    Returns
    -------
    loss_sum : torch.Tensor
        Scalar: the sum over all frames, in nats.
    accuracy : torch.Tensor
        Scalar: the share of frames whose target is at least as similar as each counted negative.

    Raises
    ------
    UserError
        If the shapes do not fit, or a negative is no frame.

    Example
    -------
    >>> x, y = torch.eye(3), torch.eye(3)
    >>> loss_sum, accuracy = contrastive_loss(x, y, torch.tensor([[1, 2], [0, 2], [0, 1]]), 0.1)
    >>> round(float(loss_sum), 6), accuracy
    (0.000273, tensor(1.))
    """
    _check(x, y, negatives)
    codes = torch.unique(y.detach().flatten(0, -2), dim=0, return_inverse=True)[1]
    num_frames = codes.numel()
    if x.dim() == 3:
        codes = codes.view(y.shape[:2])
    else:
        rows, valid, negatives = _utterances(negatives)
        x, y, codes = x[rows], y[rows], codes[rows]
        negatives = negatives.masked_fill(~valid.unsqueeze(-1), -1)
    found = contrast(x, y, codes, negatives, temperature, num_frames)
    return found.loss_sum, found.num_correct.to(found.loss_sum.dtype) / num_frames


def contrast(
    x: torch.Tensor,
    y: torch.Tensor,
    codes: torch.Tensor,
    negatives: torch.Tensor,
    temperature: float | torch.Tensor,
    num_frames: int,
) -> Contrast:
    """`contrastive_loss` where the codes of the targets are known, and utterances are padded.

    The similarities of all frames of an utterance, (T, T), stand for those of each frame and its
    K negatives: a frame that was drawn n times has its logit raised by log n, one that was not
    drawn has -inf. So no (N, K, C) tensor of negatives is made, and equal targets are found by
    number.

    Arguments
    ---------
    x, y : torch.Tensor
        (B, T, C) predictions and targets; what stands in padding does not matter.
    codes : torch.Tensor
        (B, T) integers, equal where targets are.
    negatives : torch.Tensor
        (B, T, K) integers, frames of the same utterance; -1: none, as in all rows of padding.
    temperature : float or torch.Tensor
        What the cosine similarities are divided by.
    num_frames : int
        Frames that are not padding.

    Returns
    -------
    Contrast

    Example
    -------
    >>> x = y = torch.eye(3).unsqueeze(0)
    >>> negatives = torch.tensor([[[1, 2], [0, 2], [-1, -1]]])
    >>> found = contrast(x, y, torch.tensor([[0, 1, 1]]), negatives, 0.1, num_frames=2)
    >>> found.num_correct, found.num_dropped
    (tensor(2), tensor(1))
    """
    with torch.autocast(x.device.type, enabled=False):
        dtype = compute_dtype(x.dtype)
        x, y = F.normalize(x.to(dtype), dim=-1), F.normalize(y.to(dtype), dim=-1)
        similarities = x @ y.mT / temperature  # (B, T, T)
        with torch.no_grad():
            times, num_dropped = _times_drawn(codes, negatives, dtype)
            positive = similarities.diagonal(dim1=1, dim2=2).unsqueeze(-1)
            missed = ((similarities > positive) & (times > 0)).any(-1)
            bias = times.log_()
            bias.diagonal(dim1=1, dim2=2).zero_()  # the target itself, once
        # The target alone is left in padding: a loss of zero, without gradient.
        losses = F.cross_entropy(
            (similarities + bias).flatten(0, 1), _diagonal(codes), reduction="sum"
        )
    return Contrast(losses, num_frames - missed.sum(), num_dropped)


def _times_drawn(codes, negatives, dtype):
    """How often (B, T, T) each frame is a counted negative of each, and how many do not count."""
    batch, num_frames = codes.shape
    times = torch.zeros(batch, num_frames, num_frames, dtype=dtype, device=codes.device)
    drawn = (negatives >= 0).to(dtype)
    times.scatter_add_(2, negatives.clamp(min=0), drawn)
    equal = codes.unsqueeze(2) == codes.unsqueeze(1)
    times.masked_fill_(equal, 0.0)
    return times, (drawn.sum() - times.sum()).long()


def _diagonal(codes):
    batch, num_frames = codes.shape
    return torch.arange(num_frames, device=codes.device).repeat(batch)


def _utterances(negatives):
    """Flat rows as padded utterances: rows (B, T), which of them are valid, and their negatives.

    An utterance ends where no frame behind has a negative before, or the other way round.
    """
    num_rows = len(negatives)
    row = torch.arange(num_rows, device=negatives.device)
    ends = torch.cat([negatives, row.unsqueeze(1)], 1)
    last = ends.amax(1).cummax(0).values
    first = ends.amin(1).flip(0).cummin(0).values.flip(0)
    cuts = (last[:-1] < row[1:]) & (first[1:] >= row[1:])
    starts = torch.cat([row.new_zeros(1), row[1:][cuts]])
    lengths = torch.diff(torch.cat([starts, row.new_full((1,), num_rows)]))
    times = torch.arange(int(lengths.max()), device=row.device)
    valid = times < lengths.unsqueeze(1)
    rows = torch.where(valid, starts.unsqueeze(1) + times, starts.unsqueeze(1))
    return rows, valid, negatives[rows] - starts.view(-1, 1, 1)


def _check(x, y, negatives):
    if x.dim() not in (2, 3) or x.shape != y.shape or negatives.shape[:-1] != x.shape[:-1]:
        raise UserError(
            f"x {tuple(x.shape)}, y {tuple(y.shape)}, negatives {tuple(negatives.shape)}: give "
            "(B, T, C), (B, T, C) and (B, T, K), or without B for all utterances in one"
        )
    num_frames = x.shape[-2]
    if negatives.numel() and not 0 <= int(negatives.min()) <= int(negatives.max()) < num_frames:
        raise UserError(
            f"negatives from {int(negatives.min())} to {int(negatives.max())}: the frames are "
            f"0 to {num_frames - 1}"
        )

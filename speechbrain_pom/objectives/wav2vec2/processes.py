"""The use of the codes over all processes, with the gradient that their average should have."""

from __future__ import annotations

import torch


def shares_of_processes(
    soft_counts: torch.Tensor, num_frames: int, together: bool = True
) -> torch.Tensor:
    """The mean softmax over the frames of all processes.

    Processes average their gradients (`DistributedDataParallel`), so the diversity loss of one
    that has N of all M frames, N times the loss of these shares, has to move them as its part of
    the whole: the gradient through its own sum is M / N of the plain one. Nothing is communicated
    in the backward pass, whose order need not be the same in all processes.

    Arguments
    ---------
    soft_counts : torch.Tensor
        (groups, V): the sum of the softmax over this process' frames, with gradient.
    num_frames : int
        N.
    together : bool
        False: of this process alone.

    Returns
    -------
    torch.Tensor
        (groups, V), which sum up to 1 in each group.

    Example
    -------
    >>> shares_of_processes(torch.tensor([[3.0, 1.0]]), 4)
    tensor([[0.7500, 0.2500]])
    """
    if not (together and torch.distributed.is_available() and torch.distributed.is_initialized()):
        return soft_counts / num_frames
    own = soft_counts.detach()
    totals = torch.cat([own.flatten(), own.new_tensor([num_frames])])
    torch.distributed.all_reduce(totals)
    total, all_frames = totals[:-1].view_as(own), totals[-1]
    moved = (soft_counts - own) * (all_frames / max(num_frames, 1))  # zero, but for its gradient
    return (total + moved) / all_frames

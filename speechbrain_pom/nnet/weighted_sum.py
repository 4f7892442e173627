"""A learnt weighted sum of the layers of an encoder."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechbrain_pom.utils.errors import UserError


class WeightedSum(nn.Module):
    """Softmax-weighted sum of hidden states, all layers equal at the start.

    Arguments
    ---------
    num_states : int
        Hidden states: the layers, and the input of the first one.

    Raises
    ------
    UserError
        In `forward`, for another number of states.

    Example
    -------
    >>> layer_sum = WeightedSum(2)
    >>> layer_sum([torch.zeros(1, 3, 4), torch.ones(1, 3, 4)]).unique()
    tensor([0.5000], grad_fn=<Unique2Backward0>)
    """

    def __init__(self, num_states: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(num_states))

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Sum a list of (B, T, d) tensors to one."""
        if len(states) != len(self.scores):
            raise UserError(f"{len(states)} hidden states for {len(self.scores)} weights")
        weights = self.scores.softmax(0)
        return sum(weight * state for weight, state in zip(weights, states, strict=True))

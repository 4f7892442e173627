"""The largest value so far by doubling, for graphs whose runtimes have no cumulative maximum."""

import torch
from torch import Tensor

_MOST_DOUBLINGS = 26  # for a length that is a variable: a week of frames


def running_max(values: Tensor) -> Tensor:
    """The largest of each value and all before it in time, for (B, T, d).

    Each of log2(T) steps doubles how far back a maximum reaches. Of a graph of any length they are
    those of the longest.

    >>> running_max(torch.tensor([[[1.0], [3.0], [2.0], [4.0], [0.0]]])).flatten()
    tensor([1., 3., 3., 4., 4.])
    """
    num_frames = values.shape[1]
    is_number = isinstance(num_frames, int)
    place = torch.arange(num_frames, device=values.device)
    for step in range((num_frames - 1).bit_length() if is_number else _MOST_DOUBLINGS):
        earlier = (place - 2**step).clamp(min=0)  # the first value is before all others
        values = torch.maximum(values, values.index_select(1, earlier))
    return values

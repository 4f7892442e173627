"""Projections of the mixers: those whose weights may be read, and those that have to be called.

The functions of `speechbrain_pom.ops` are fast because they take weights and fold the projections
into the operations around them, without calling the modules. That is done only if every projection
is the plain layer that the mixer was built with. One with a hook (as pruning and the older weight
norm have), with a parametrisation, or of another class (an adapter, a quantised layer) is called,
by the functions in `by_layers.py` of its operator.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from speechbrain_pom.ops.common.graphs import is_exporting


class BlockDiagonal(nn.Module):
    """A block-diagonal linear layer, initialised like `nn.Linear` block by block.

    The shape is the published one: SpeechBrain's TransformerASR initialises it as it was there.

    Arguments
    ---------
    input_size, output_size : int
        Widths, multiples of the number of blocks.
    num_blocks : int
        Blocks.

    Example
    -------
    >>> BlockDiagonal(8, 6, num_blocks=2)(torch.randn(3, 5, 8)).shape
    torch.Size([3, 5, 6])
    """

    def __init__(self, input_size: int, output_size: int, num_blocks: int) -> None:
        super().__init__()
        block = input_size // num_blocks
        bound = block**-0.5
        weight = torch.empty(num_blocks, block, output_size // num_blocks)
        bias = torch.empty(num_blocks, output_size // num_blocks)
        self.weight = nn.Parameter(weight.uniform_(-bound, bound))
        self.bias = nn.Parameter(bias.uniform_(-bound, bound))

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (..., input_size) to (..., output_size)."""
        num_blocks, block, _ = self.weight.shape
        by_block = frames.reshape(-1, num_blocks, block).transpose(0, 1)
        output = torch.baddbmm(self.bias.unsqueeze(1), by_block, self.weight)
        return output.transpose(0, 1).reshape(*frames.shape[:-1], -1)

    def extra_repr(self) -> str:
        """The sizes, for `print(model)`."""
        num_blocks, rows, columns = self.weight.shape
        return f"{num_blocks} blocks of {rows} to {columns}"


PLAIN_KINDS = (nn.Linear, BlockDiagonal, nn.Conv1d, nn.LayerNorm, nn.LSTM)


def is_plain(layer: nn.Module) -> bool:
    """Whether reading a layer's weights has the same effect as calling the layer.

    Hooks that are global to PyTorch (`register_module_forward_hook`) do not count: profilers set
    them, and should see what runs without them.

    >>> layer = nn.Linear(2, 3)
    >>> is_plain(layer), is_plain(nn.utils.parametrizations.weight_norm(layer))
    (True, False)
    """
    if type(layer) not in PLAIN_KINDS or "forward" in layer.__dict__:
        return False
    hooks = (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )
    # A tensor of another class is quantised, or distributed, or does something else by itself.
    groups = layer.all_weights if type(layer) is nn.LSTM else [(layer.weight, layer.bias)]
    return not any(map(len, hooks)) and all(
        type(tensor) in (nn.Parameter, torch.Tensor) for group in groups for tensor in group
    )


def weights_of(*groups: Iterable[nn.Module]) -> list[list[tuple[Tensor, Tensor]]] | None:
    """Weights and biases of groups of layers, as the functions of `speechbrain_pom.ops` take them.

    None if any layer has to be called, or a graph is exported: the functions that take weights read
    sizes as numbers and write in place, those in `by_layers.py` are plain operations of any size.

    >>> layers = nn.ModuleList([nn.Linear(2, 3)])
    >>> [[tuple(tensor.shape) for tensor in pair] for pair in weights_of(layers)[0]]
    [[(3, 2), (3,)]]
    >>> handle = layers[0].register_forward_hook(print)
    >>> weights_of(layers) is None
    True
    """
    by_weights = all(is_plain(layer) for group in groups for layer in group)
    if not by_weights or is_exporting():
        return None
    return [[(layer.weight, layer.bias) for layer in group] for group in groups]

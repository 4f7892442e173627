"""The Polynomial Mixer as a function: projections, running products, means over time, gates.

Equations and shapes: README.md beside this file. Slow version: `reference.polynomial_mix`.
"""

import torch
import torch.nn.functional as F

from speechbrain_pom.ops import reference
from speechbrain_pom.ops.pooling import MeanAccumulator, state_of_frames
from speechbrain_pom.ops.visibility import ChunkMask, parse_attn_mask

BACKENDS = ("auto", "reference", "fused")
ACTIVATIONS = ("gelu_product", "relu_power")

# Frames per block where no gradient is needed: the expanded tensors of a block (256 x 1952 floats
# = 2 MB at the paper's size) stay in cache, and their memory does not grow with the audio.
BLOCK_FRAMES = 256


def polynomial_mix(
    query,
    poly_weights,
    gate_weights,
    out_weight,
    out_bias,
    *,
    degree,
    activation="gelu_product",
    key=None,
    key_padding_mask=None,
    attn_mask=None,
    backend="auto",
):
    """Mix frames over time through the mean of polynomial features (PoM, section 1 of its paper).

    For each group of features g (one group, except for the frequency-aware variants):

        H_g = mean over the visible frames of phi(W_g x_g),   S_g = sigmoid(W_s,g x_g)
        output = W_o [ S_1 * H_1 | ... ]                      (the LayerNorm is the module's)

    Arguments
    ---------
    query : torch.Tensor
        (B, T, d): the frames that are gated.
    poly_weights : sequence of (torch.Tensor, torch.Tensor)
        One (weight, bias) per group: (E_g * r, g) with r = 1; the group widths g add up to d.
        "gelu_product": E_g = degree * n, branch i in rows i*n to (i+1)*n.
    gate_weights : sequence of (torch.Tensor, torch.Tensor)
        One (weight, bias) per group: (E_g, g), (E_g,).
    out_weight, out_bias : torch.Tensor
        (d_out, E) and (d_out,), E the sum of the E_g.
    degree : int
        k, the order of the polynomial.
    activation : str
        "gelu_product" (running products of GELU branches) or "relu_power" (relu(W x)^k).
    key : torch.Tensor, optional
        (B, S, d): the frames that are averaged; the query itself when not given.
    key_padding_mask : torch.Tensor, optional
        (B, S) boolean, True = padding: counts neither in the sums nor in the lengths.
    attn_mask : ChunkMask or torch.Tensor, optional
        See `speechbrain_pom.ops.parse_attn_mask`.
    backend : str
        "auto" (the fastest there is), "fused", or "reference" (slow, the definition).

    Returns
    -------
    torch.Tensor
        (B, T, d_out), of the dtype that a linear layer would return (autocast included). The
        products and the means over time are in fp32 or better whatever the dtype.

    Raises
    ------
    ValueError
        For an unknown backend or activation, or a mask that cannot be honoured.

    Example
    -------
    >>> x = torch.randn(2, 5, 4)
    >>> linear = lambda rows, cols: (torch.randn(rows, cols), torch.randn(rows))
    >>> weights = [linear(16, 4)], [linear(16, 4)], *linear(4, 16)
    >>> polynomial_mix(x, *weights, degree=2).shape
    torch.Size([2, 5, 4])
    >>> slow = polynomial_mix(x, *weights, degree=2, backend="reference")
    >>> torch.allclose(polynomial_mix(x, *weights, degree=2), slow, atol=1e-4)
    True
    """
    _check_choice("backend", backend, BACKENDS)
    _check_choice("activation", activation, ACTIVATIONS)
    key = query if key is None else key
    _check_padding_mask(key_padding_mask, key)
    visibility = parse_attn_mask(attn_mask, query.shape[1], key.shape[1])
    if backend == "reference":
        return reference.polynomial_mix(
            query,
            poly_weights,
            gate_weights,
            out_weight,
            out_bias,
            degree=degree,
            activation=activation,
            key=key,
            key_padding_mask=key_padding_mask,
            attn_mask=visibility,
        )
    sizes = [weight.shape[1] for weight, _ in poly_weights]
    states = [
        _state(frames, weight, bias, degree, activation, key_padding_mask, visibility)
        for frames, (weight, bias) in zip(key.split(sizes, -1), poly_weights, strict=True)
    ]
    return _select(query.split(sizes, -1), states, gate_weights, out_weight, out_bias, visibility)


def _state(frames, weight, bias, degree, activation, key_padding_mask, visibility):
    """Mean of the polynomial features that each query sees: (B, 1 | chunks | T, E), fp32."""
    mean = MeanAccumulator(visibility)
    for start, stop in _blocks(frames, weight, visibility):
        features = _features(frames[:, start:stop], weight, bias, degree, activation)
        padding = None if key_padding_mask is None else key_padding_mask[:, start:stop]
        mean.add(features, padding)
    return mean.state()


def _features(frames, weight, bias, degree, activation):
    """phi(W x) of a block of frames, (B, t, E), in fp32 or better."""
    # fp16 overflows and bf16 rounds away in products of k activations: upcast right after
    # the projection, which is where the half-precision speed is.
    projected = F.linear(frames, weight, bias)
    projected = projected.to(torch.promote_types(projected.dtype, torch.float32))
    if activation == "relu_power":
        return torch.relu(projected) ** degree
    branches = F.gelu(projected).chunk(degree, dim=-1)
    products = [branches[0]]
    for branch in branches[1:]:
        products.append(products[-1] * branch)
    return torch.cat(products, dim=-1) if degree > 1 else products[0]


def _select(query_groups, states, gate_weights, out_weight, out_bias, visibility):
    """W_o (sigmoid(W_s x) * H), (B, T, d_out)."""
    outputs = None
    num_frames = query_groups[0].shape[1]
    blocks = _blocks(query_groups[0], out_weight, visibility)
    for start, stop in blocks:
        gated = []
        for frames, state, (weight, bias) in zip(query_groups, states, gate_weights, strict=True):
            gate = torch.sigmoid(F.linear(frames[:, start:stop], weight, bias))
            gated.append((gate * state_of_frames(state, visibility, start, stop)).to(gate.dtype))
        gated = gated[0] if len(gated) == 1 else torch.cat(gated, dim=-1)
        block = F.linear(gated, out_weight, out_bias)
        if len(blocks) == 1:
            return block
        if outputs is None:
            outputs = block.new_empty(block.shape[0], num_frames, block.shape[2])
        outputs[:, start:stop] = block
    return outputs


def _blocks(frames, weight, visibility):
    """Ranges of frames to work on: the whole sequence where autograd records, else blocks."""
    num_frames = frames.shape[1]
    if torch.is_grad_enabled() and (frames.requires_grad or weight.requires_grad):
        return [(0, num_frames)]
    size = BLOCK_FRAMES
    if isinstance(visibility, ChunkMask):  # a block holds whole chunks
        size = max(1, size // visibility.chunk_size) * visibility.chunk_size
    return [(start, min(start + size, num_frames)) for start in range(0, max(num_frames, 1), size)]


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(choices)}")


def _check_padding_mask(key_padding_mask, key):
    if key_padding_mask is None:
        return
    if key_padding_mask.dtype != torch.bool or key_padding_mask.shape != key.shape[:2]:
        raise ValueError(
            f"key_padding_mask is {key_padding_mask.dtype} of shape "
            f"{tuple(key_padding_mask.shape)}: give a boolean mask of shape "
            f"{tuple(key.shape[:2])}, True = padding"
        )

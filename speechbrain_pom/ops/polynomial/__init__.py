"""The Polynomial Mixer as a function: projections, running products, means over time, gates.

Equations and shapes: README.md in the folder above. Slow version: reference.py.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_pom.ops.common.chunks import ChunkMask
from speechbrain_pom.ops.common.inputs import prepare
from speechbrain_pom.ops.common.masks import AttnMask, check_padding_mask
from speechbrain_pom.ops.common.means import means
from speechbrain_pom.ops.common.precision import compute_dtype
from speechbrain_pom.ops.common.sums import TimeSums, count_frames, zero_padding
from speechbrain_pom.ops.polynomial import reference
from speechbrain_pom.ops.polynomial.autograd import Passes
from speechbrain_pom.ops.polynomial.backends import choose_backend
from speechbrain_pom.ops.polynomial.features import Polynomial

Linear = tuple[Tensor, Tensor]  # weight (out, in) and bias (out,)


def polynomial_mix(
    query: Tensor,
    poly_weights: Sequence[Linear],
    gate_weights: Sequence[Linear],
    out_weight: Tensor,
    out_bias: Tensor,
    *,
    degree: int,
    activation: str = "gelu_product",
    key: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    attn_mask: AttnMask = None,
    backend: str = "auto",
    recompute: bool = False,
) -> Tensor:
    """Mix frames over time by the mean of polynomial features (PoM, arXiv 2603.00683, section 2).

    For each group of features g (one group, except for the frequency-aware variants):

        H_g = mean over the visible frames of phi(W_g x_g),   S_g = sigmoid(W_s,g x_g)
        output = W_o [ S_1 * H_1 | ... ]                      (the LayerNorm is the module's)

    Arguments
    ---------
    query : torch.Tensor
        (B, T, d): the frames that are gated.
    poly_weights : sequence of (torch.Tensor, torch.Tensor)
        One (weight, bias) per group: (E_g, g), (E_g,); the group widths g add up to d.
        "gelu_product": E_g = degree * n, branch i in rows (i-1)*n to i*n.
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
        "auto" (the fastest there is) or a name that `choose_backend` explains; it also says which
        one runs.
    recompute : bool
        In training, with a fused backend: False keeps two (B, T, E) tensors, the outputs of the
        two projections; True keeps none and computes them again in the backward pass.

    Returns
    -------
    torch.Tensor
        (B, T, d_out), of the dtype that a linear layer would return (autocast included). The
        products and the means over time are in fp32 or better whatever the dtype.

    Raises
    ------
    UserError
        For an unknown backend or activation, a backend that is not available on this device, or a
        mask that cannot be honoured.
    RuntimeError
        When a fused backend is differentiated twice.

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
    polynomial = Polynomial(degree, activation)
    query, key, mask = prepare(query, key, key_padding_mask, attn_mask)
    cast = _autocast(query.device.type)
    mixed_query = cast(query)
    backend = choose_backend(backend, query.device, mixed_query.dtype)
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
            attn_mask=mask,
        )
    mixed_key = mixed_query if key is query else cast(key)
    passes = Passes(_frames_per_row(mask), torch.is_grad_enabled() and not recompute, backend)
    sizes = [weight.shape[1] for weight, _ in poly_weights]
    expanded = [weight.shape[0] for weight, _ in gate_weights]
    groups = zip(
        _split(mixed_query, sizes),
        _split(mixed_key, sizes),
        poly_weights,
        gate_weights,
        _split(cast(out_weight), expanded),
        strict=True,
    )
    mixed, bias = None, cast(out_bias)
    with torch.autocast(query.device.type, enabled=False):
        for q, k, poly, gate, weight in groups:
            state = _state(k, map(cast, poly), polynomial, key_padding_mask, mask, passes)
            group = passes.select(q, state, *map(cast, gate), weight, bias)
            mixed, bias = group if mixed is None else mixed + group, None
    return mixed


def polynomial_sums(
    frames: Tensor,
    poly_weights: Sequence[Linear],
    *,
    degree: int,
    activation: str,
    key_padding_mask: Tensor | None = None,
    backend: str = "auto",
) -> TimeSums:
    """What PoM knows of a sequence: the sums over time of its polynomial features.

    Arguments
    ---------
    frames : torch.Tensor
        (B, T, d): the sequence, or a part of it.
    poly_weights, degree, activation, key_padding_mask, backend
        As for `polynomial_mix`.

    Returns
    -------
    TimeSums
        Of all groups of features, (B, 1, E). Those of parts of a sequence add up to the whole's.

    Raises
    ------
    UserError
        As `polynomial_mix`.

    Example
    -------
    >>> weights = [(torch.randn(16, 4), torch.zeros(16))]
    >>> frames = torch.randn(2, 5, 4)
    >>> polynomial_sums(frames, weights, degree=2, activation="gelu_product").sums.shape
    torch.Size([2, 1, 16])
    """
    polynomial = Polynomial(degree, activation)
    check_padding_mask(key_padding_mask, frames)
    cast = _autocast(frames.device.type)
    mixed = zero_padding(cast(frames), key_padding_mask)
    backend = choose_backend(backend, frames.device, mixed.dtype)
    passes = Passes(None, torch.is_grad_enabled(), backend)
    sums = []
    with torch.autocast(frames.device.type, enabled=False):
        groups = _split(mixed, [weight.shape[1] for weight, _ in poly_weights])
        for group, pair in zip(groups, poly_weights, strict=True):
            if backend == "reference":
                features = _reference_features(group, pair, polynomial)
                sums.append(zero_padding(features, key_padding_mask).sum(1, keepdim=True))
            else:
                linear = map(cast, pair)
                sums.append(passes.feature_sums(group, *linear, key_padding_mask, polynomial))
    return TimeSums(torch.cat(sums, -1), count_frames(frames, key_padding_mask, None))


def polynomial_mix_with_sums(
    query: Tensor,
    summary: TimeSums,
    gate_weights: Sequence[Linear],
    out_weight: Tensor,
    out_bias: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """PoM of frames that all see one summary.

    Arguments
    ---------
    query : torch.Tensor
        (B, T, d).
    summary : TimeSums
        From `polynomial_sums`.
    gate_weights, out_weight, out_bias, backend
        As for `polynomial_mix`.

    Returns
    -------
    torch.Tensor
        (B, T, d_out).

    Raises
    ------
    UserError
        For a backend that is not available.

    Example
    -------
    >>> linear = lambda rows, cols: (torch.randn(rows, cols), torch.randn(rows))
    >>> poly, gate, out = [linear(16, 4)], [linear(16, 4)], linear(4, 16)
    >>> frames = torch.randn(1, 5, 4)
    >>> summary = polynomial_sums(frames, poly, degree=2, activation="gelu_product")
    >>> mixed = polynomial_mix_with_sums(frames, summary, gate, *out)
    >>> torch.allclose(mixed, polynomial_mix(frames, poly, gate, *out, degree=2), atol=1e-5)
    True
    """
    cast = _autocast(query.device.type)
    mixed_query = cast(query)
    backend = choose_backend(backend, query.device, mixed_query.dtype)
    passes = Passes(None, torch.is_grad_enabled(), backend)
    dtype = compute_dtype(mixed_query.dtype)
    expanded = [weight.shape[0] for weight, _ in gate_weights]
    groups = zip(
        _split(mixed_query, [weight.shape[1] for weight, _ in gate_weights]),
        _split(summary.mean().to(dtype), expanded),
        gate_weights,
        _split(cast(out_weight), expanded),
        strict=True,
    )
    mixed = cast(out_bias)
    with torch.autocast(query.device.type, enabled=False):
        for q, state, gate, weight in groups:
            if backend == "reference":
                gate = torch.sigmoid(F.linear(*(tensor.to(dtype) for tensor in (q, *gate))))
                mixed = mixed + F.linear(gate * state, weight.to(dtype))
            else:
                mixed = mixed + passes.select(q, state, *map(cast, gate), weight, None)
    return mixed.to(mixed_query.dtype)


def _reference_features(frames, pair, polynomial):
    """The polynomial features of each frame, in fp32 or better."""
    dtype = compute_dtype(frames.dtype)
    wide = (tensor.to(dtype) for tensor in (frames, *pair))
    return reference.polynomial_features(*wide, polynomial.degree, polynomial.activation)


def _frames_per_row(mask):
    """How many frames share a row of the state; None: all of them."""
    if mask is None:
        return None
    return mask.chunk_size if isinstance(mask, ChunkMask) else 1


def _state(key, poly, polynomial, padding, mask, passes):
    """The mean features (B, C, E_g) of a group that the frames may see."""
    if isinstance(mask, torch.Tensor):  # without a structure: a row for each query
        features = _reference_features(key, poly, polynomial)
        return means(features, count_frames(key, padding, 1), mask, padding)
    sums = passes.feature_sums(key, *poly, padding, polynomial)
    return means(sums, count_frames(key, padding, passes.chunk_size), mask)


def _split(tensor, sizes):
    """The groups of the last dimension; a single one as it is, whose gradient is no copy."""
    return [tensor] if len(sizes) == 1 else tensor.split(sizes, -1)


def _autocast(device_type: str) -> Callable[[Tensor], Tensor]:
    """What autocast does to the arguments of a linear layer, as a function of a tensor."""
    if not torch.is_autocast_enabled(device_type):
        return lambda tensor: tensor
    dtype = torch.get_autocast_dtype(device_type)
    return lambda tensor: tensor if tensor.dtype == torch.float64 else tensor.to(dtype)

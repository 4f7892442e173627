"""The Polynomial Mixer as a function: projections, running products, means over time, gates.

Equations and shapes: README.md in the folder above. Slow version: reference.py.
"""

import torch
import torch.nn.functional as F

from speechbrain_pom.ops.common.masks import ChunkMask, check_padding_mask, parse_attn_mask
from speechbrain_pom.ops.common.precision import compute_dtype
from speechbrain_pom.ops.common.sums import TimeSums, count_frames, means, zero_padding
from speechbrain_pom.ops.polynomial import autograd, reference
from speechbrain_pom.ops.polynomial.backends import choose_backend
from speechbrain_pom.utils.errors import UserError

ACTIVATIONS = ("gelu_product", "relu_power")


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
    recompute=False,
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
        "auto" (the fastest there is) or a name that `choose_backend` explains; it also says which
        one runs.
    recompute : bool
        Fused, where gradients are recorded: False keeps two (B, T, E) tensors, the outputs of the
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
    _check_activation(activation)
    cast = _autocast(query.device.type)
    itself = key is None or key is query
    key = query if itself else key
    check_padding_mask(key_padding_mask, key)
    key = zero_padding(key, key_padding_mask)  # no gradient is NaN, whatever padding holds
    query = key if itself else query
    mixed_query = cast(query)
    backend = choose_backend(backend, query.device, mixed_query.dtype)
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
    mixed_key = mixed_query if itself else cast(key)
    sizes = [weight.shape[1] for weight, _ in poly_weights]
    expanded = [weight.shape[0] for weight, _ in gate_weights]
    with torch.autocast(query.device.type, enabled=False):
        return _mix_groups(
            _split(mixed_query, sizes),
            _split(mixed_key, sizes),
            [tuple(map(cast, pair)) for pair in poly_weights],
            [tuple(map(cast, pair)) for pair in gate_weights],
            _split(cast(out_weight), expanded),
            cast(out_bias),
            (degree, activation, key_padding_mask, visibility, recompute, backend),
        )


def polynomial_sums(
    frames, poly_weights, *, degree, activation, key_padding_mask=None, backend="auto"
):
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
    _check_activation(activation)
    check_padding_mask(key_padding_mask, frames)
    cast = _autocast(frames.device.type)
    mixed = zero_padding(cast(frames), key_padding_mask)
    backend = choose_backend(backend, frames.device, mixed.dtype)
    sums = []
    with torch.autocast(frames.device.type, enabled=False):
        groups = _split(mixed, [weight.shape[1] for weight, _ in poly_weights])
        for group, pair in zip(groups, poly_weights, strict=True):
            if backend == "reference":
                features = _reference_features(group, pair, degree, activation)
                sums.append(zero_padding(features, key_padding_mask).sum(1, keepdim=True))
                continue
            how = None, degree, activation, torch.is_grad_enabled(), backend
            sums.append(autograd.feature_sums(group, *map(cast, pair), key_padding_mask, *how)[0])
    return TimeSums(torch.cat(sums, -1), count_frames(frames, key_padding_mask, None))


def mix_with_sums(query, summary, gate_weights, out_weight, out_bias, *, backend="auto"):
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
    >>> mixed = mix_with_sums(frames, summary, gate, *out)
    >>> torch.allclose(mixed, polynomial_mix(frames, poly, gate, *out, degree=2), atol=1e-5)
    True
    """
    cast = _autocast(query.device.type)
    mixed_query = cast(query)
    backend = choose_backend(backend, query.device, mixed_query.dtype)
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
                how = None, torch.is_grad_enabled(), backend
                mixed = mixed + autograd.select(q, state, *map(cast, gate), weight, None, *how)[0]
    return mixed.to(mixed_query.dtype)


def _check_activation(activation):
    if activation not in ACTIVATIONS:
        raise UserError(f"activation is {activation!r}: choose one of {', '.join(ACTIVATIONS)}")


def _reference_features(frames, pair, degree, activation):
    """The polynomial features of each frame, in fp32 or better."""
    dtype = compute_dtype(frames.dtype)
    wide = (tensor.to(dtype) for tensor in (frames, *pair))
    return reference.polynomial_features(*wide, degree, activation)


def _mix_groups(queries, keys, poly_weights, gate_weights, out_weights, out_bias, options):
    """Sum of the groups' W_o,g (S_g * H_g), and the bias: (B, T, d_out)."""
    degree, activation, padding, visibility, recompute, backend = options
    keep = torch.is_grad_enabled() and not recompute
    chunk_size = visibility.chunk_size if isinstance(visibility, ChunkMask) else None
    mixed = None
    for q, k, poly, gate, out_weight in zip(
        queries, keys, poly_weights, gate_weights, out_weights, strict=True
    ):
        if isinstance(visibility, torch.Tensor):  # any other mask: a state for each query
            features = _reference_features(k, poly, degree, activation)
            state = means(features, count_frames(k, padding, 1), visibility, padding)
            chunk_size = 1
        else:
            how = chunk_size, degree, activation, keep, backend
            sums, _ = autograd.feature_sums(k, *poly, padding, *how)
            state = means(sums, count_frames(k, padding, chunk_size), visibility)
        bias = out_bias if mixed is None else None
        how = chunk_size, keep, backend
        group, _ = autograd.select(q, state, *gate, out_weight, bias, *how)
        mixed = group if mixed is None else mixed + group
    return mixed


def _split(tensor, sizes):
    """The groups of the last dimension; a single one as it is, whose gradient is no copy."""
    return [tensor] if len(sizes) == 1 else tensor.split(sizes, -1)


def _autocast(device_type):
    """What autocast does to the arguments of a linear layer, as a function of a tensor."""
    if not torch.is_autocast_enabled(device_type):
        return lambda tensor: tensor
    dtype = torch.get_autocast_dtype(device_type)
    return lambda tensor: tensor if tensor.dtype == torch.float64 else tensor.to(dtype)

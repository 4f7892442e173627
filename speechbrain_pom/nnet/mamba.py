"""Mamba, in one direction or in both, with the signature of SpeechBrain's attention modules."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_pom.nnet.mixer import TokenMixer, register_mixer
from speechbrain_pom.nnet.projections import is_plain
from speechbrain_pom.ops import ChunkMask, parse_attn_mask, selective_scan
from speechbrain_pom.ops.common.masks import AttnMask, check_padding_mask
from speechbrain_pom.ops.common.precision import compute_dtype
from speechbrain_pom.ops.selective_scan import SCAN_BACKENDS, selective_scan_from
from speechbrain_pom.utils.errors import UserError

DT_RANGE = (1e-3, 0.1)  # the time steps at the start, before they depend on the frame


class MambaState(NamedTuple):
    """What a stream's next frames need of all frames before them.

    Arguments
    ---------
    past : torch.Tensor
        (B, d_conv - 1, d_inner): the last inputs of the convolution; zeros before the stream.
    hidden : torch.Tensor
        (B, N, d_inner): the state of the scan, in fp32 or better.
    """

    past: Tensor
    hidden: Tensor


@register_mixer("Mamba", "Mamba: selective state space model, linear time (2312.00752)")
class Mamba(TokenMixer):
    """Mamba: linear-time token mixing by a selective state space model.

    One `MambaBlock` from left to right (Gu and Dao 2023, arXiv 2312.00752; equations in
    `ops/README.md`). Bidirectional, as in speech encoders (arXiv 2409.02596): a second block with
    weights of its own from right to left, and the sum of both. Padded frames change nothing: the
    block from the right begins at the last frame of each utterance. There is one head.

    Arguments
    ---------
    d_model : int
        Width of the frames.
    bidirectional : bool
        False: each frame sees the frames before it and itself, for causal and streaming encoders.
    d_state : int
        N, size of the state of a channel.
    d_conv : int
        Frames that the depthwise convolution before the scan sees.
    expand : int
        Width inside of the block in units of d_model.
    backend : str
        "auto" (the fastest there is), or a name that `speechbrain_pom.ops.choose_scan_backend`
        explains.

    Raises
    ------
    UserError
        For an unknown backend, or a size that is not a whole number of at least 1.

    Example
    -------
    >>> mixer = Mamba(d_model=8)
    >>> frames = torch.randn(2, 50, 8)
    >>> output, _ = mixer(frames)
    >>> output.shape
    torch.Size([2, 50, 8])

    Padding changes nothing:

    >>> padding = torch.arange(50) >= torch.tensor([[50], [30]])
    >>> batched, _ = mixer(frames, key_padding_mask=padding)
    >>> alone, _ = mixer(frames[1:, :30])
    >>> torch.allclose(batched[1, :30], alone[0], atol=1e-6)
    True
    """

    accepts_chunk_mask = True
    can_stream = False  # by frames of a left context, beyond which its state reaches

    def __init__(
        self,
        d_model: int,
        bidirectional: bool = True,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        sizes = {"d_model": d_model, "d_state": d_state, "d_conv": d_conv, "expand": expand}
        for name, value in sizes.items():
            self.check_size(name, value)
        if not isinstance(bidirectional, bool):
            raise UserError(f"Mamba: bidirectional is {bidirectional!r}: give True or False")
        self.check_choice("backend", backend, SCAN_BACKENDS)
        self.bidirectional = bidirectional
        self.left_to_right = MambaBlock(**sizes, backend=backend)
        if bidirectional:
            self.right_to_left = MambaBlock(**sizes, reverse=True, backend=backend)

    def mix_frames(
        self, query: Tensor, key: Tensor, attn_mask: AttnMask, key_padding_mask: Tensor | None
    ) -> Tensor:
        """Mix the frames; see `TokenMixer.forward`.

        A mask is accepted if no frame sees what it hides: with `bidirectional=False`, causal masks
        and chunk masks with all of the past.
        """
        check_padding_mask(key_padding_mask, query)
        self._check_attn_mask(attn_mask, query.shape[1])
        output = self.left_to_right(query, key_padding_mask)
        if self.bidirectional:
            output = output + self.right_to_left(query, key_padding_mask)
        return output

    def obstacle_to_steps(self, left_context_chunks: int | None = None) -> str | None:
        """A block from the right, or a limited left context; see `TokenMixer`."""
        if self.bidirectional:
            return (
                "Mamba(bidirectional=True) cannot stream: one of its blocks begins at the last "
                "frame; choose Mamba(bidirectional=False)"
            )
        if left_context_chunks is not None:
            return (
                f"Mamba cannot stream with a left context of {left_context_chunks} chunks: its "
                "state holds all of the past; leave the left context unlimited"
            )
        return None

    def first_state(self, batch_size: int, left_context_chunks: int | None = None) -> MambaState:
        """The state of streams before their first chunk; see `TokenMixer.first_state`."""
        self._check_steps(left_context_chunks)
        return self.left_to_right.first_state(batch_size)

    @torch.no_grad()
    def step(self, frames: Tensor, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        """Mix the next frames of a stream, any number of them; see `TokenMixer.step`.

        Without gradients. The scan is `chunked` where the backend is `mamba_ssm`.
        """
        self._check_steps(None)
        return self.left_to_right.step(frames, self._state_for(frames, state))

    def _check_attn_mask(self, attn_mask, num_frames):
        """Refuse a mask that hides a frame which the scan sees; a smaller view is no leak."""
        mask = parse_attn_mask(attn_mask, num_frames, num_frames)
        if mask is None:
            return
        if self.bidirectional:
            raise UserError(
                "Mamba: attn_mask hides frames, and Mamba(bidirectional=True) sees all of them: "
                "choose Mamba(bidirectional=False) for a causal or streaming encoder"
            )
        if isinstance(mask, ChunkMask):
            past_is_hidden = mask.left_context_chunks is not None
        else:
            past_is_hidden = bool(mask.tril().any())
        if past_is_hidden:
            raise UserError(
                "Mamba: attn_mask hides past frames, which the state holds all of: give a causal "
                "mask, or a chunk mask with unlimited left context"
            )


class MambaBlock(nn.Module):
    """The block of Mamba in one direction, with the parameters of the package `mamba_ssm`.

    Projection, depthwise convolution and SiLU, selective scan, gate, projection. Convolution and
    scan go from left to right, or both from right to left.

    Arguments
    ---------
    d_model, d_state, d_conv, expand, backend
        See `Mamba`.
    reverse : bool
        True: from right to left.

    Example
    -------
    >>> MambaBlock(8)(torch.randn(2, 50, 8)).shape
    torch.Size([2, 50, 8])
    """

    keeps_own_initialisation = True  # A and the time steps begin at chosen values

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        reverse: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.d_state = d_state
        self.d_conv = d_conv
        self.reverse = reverse
        self.backend = backend
        d_inner, dt_rank = expand * d_model, math.ceil(d_model / 16)
        self.dt_rank = dt_rank
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.empty(d_inner, d_state))
        self.D = nn.Parameter(torch.empty(d_inner))
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The paper's initialisation: A = -1..-N, D = 1, time steps log-uniform in `DT_RANGE`."""
        for layer in (self.in_proj, self.conv1d, self.x_proj, self.out_proj):
            layer.reset_parameters()
        rates = torch.arange(1.0, self.d_state + 1)
        self.A_log.copy_(rates.log().expand_as(self.A_log))
        self.D.fill_(1.0)
        bound = self.dt_rank**-0.5
        self.dt_proj.weight.uniform_(-bound, bound)
        low, high = (math.log(step) for step in DT_RANGE)
        step = torch.empty_like(self.dt_proj.bias).uniform_(low, high).exp()
        self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus(bias) = step

    def forward(self, frames: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """Mix the frames.

        Arguments
        ---------
        frames : torch.Tensor
            (B, T, d_model).
        key_padding_mask : torch.Tensor, optional
            (B, T) boolean, True = padding.

        Returns
        -------
        torch.Tensor
            (B, T, d_model), zero where there is padding.
        """
        if key_padding_mask is not None:  # the convolution reads zeros, as beyond the ends
            frames = frames.masked_fill(key_padding_mask.unsqueeze(-1), 0.0)
        x, gate = self.in_proj(frames).chunk(2, dim=-1)
        scan, options = self._scan_inputs(F.silu(self._convolve(x)))
        options |= {"key_padding_mask": key_padding_mask, "reverse": self.reverse}
        return self.out_proj(selective_scan(*scan, **options) * F.silu(gate))

    def first_state(self, batch_size: int) -> MambaState:
        """The state of streams before their first frame."""
        width = len(self.D)  # a parameter even where the projections are adapters or quantised
        past = self.D.new_zeros(batch_size, self.d_conv - 1, width)
        dtype = compute_dtype(self.D.dtype)
        return MambaState(past, self.D.new_zeros(batch_size, self.d_state, width, dtype=dtype))

    def step(self, frames: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """Mix the next frames (B, T, d_model) of streams, from left to right."""
        x, gate = self.in_proj(frames).chunk(2, dim=-1)
        x = torch.cat([state.past.to(x.dtype), x], dim=1)
        past = x[:, frames.shape[1] :].to(state.past.dtype, copy=True)
        scan, options = self._scan_inputs(F.silu(self._convolve(x)[:, self.d_conv - 1 :]))
        mixed, hidden = selective_scan_from(state.hidden, *scan, **options)
        return self.out_proj(mixed * F.silu(gate)), MambaState(past, hidden)

    def _scan_inputs(self, x):
        """The scan's tensors and options, for its inputs x."""
        sizes = (self.dt_rank, self.d_state, self.d_state)
        low_rank_dt, B, C = self.x_proj(x).split(sizes, dim=-1)
        dt = self._time_steps(low_rank_dt)
        rates = -torch.exp(self.A_log.to(dt.dtype))
        return (x, dt, rates, B, C, self.D), {"backend": self.backend}

    def _time_steps(self, low_rank):
        """The time steps of all channels, in fp32 or better."""
        if is_plain(self.dt_proj):  # a bias of -7 and its small changes are lost in bf16
            dt = F.linear(low_rank, self.dt_proj.weight)
            dtype = compute_dtype(dt.dtype)
            return F.softplus(dt.to(dtype) + self.dt_proj.bias.to(dtype))
        dt = self.dt_proj(low_rank)
        return F.softplus(dt.to(compute_dtype(dt.dtype)))

    def _convolve(self, x):
        """Depthwise convolution over the frame and those before it (after it, in reverse)."""
        conv, num_frames = self.conv1d, x.shape[1]
        x = x.transpose(1, 2)
        if not is_plain(conv):
            x = x.flip(-1) if self.reverse else x
            x = conv(x)[..., :num_frames]
            return (x.flip(-1) if self.reverse else x).transpose(1, 2)
        weight = conv.weight.flip(-1) if self.reverse else conv.weight
        x = F.conv1d(x, weight, conv.bias, padding=conv.padding, groups=conv.groups)
        start = self.d_conv - 1 if self.reverse else 0
        return x[..., start : start + num_frames].transpose(1, 2)

    def extra_repr(self) -> str:
        """The options, for `print(model)`."""
        return f"d_state={self.d_state}, reverse={self.reverse}, backend={self.backend!r}"

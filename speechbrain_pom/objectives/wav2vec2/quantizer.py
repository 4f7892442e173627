"""The targets of wav2vec 2.0: a product quantizer that is trained through Gumbel noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from speechbrain_pom.ops.common.precision import compute_dtype
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.seeding import derive_seed

EPSILON = 1e-7  # in the logarithms of perplexities, as published


class Quantized(NamedTuple):
    """What a quantizer makes of N frames.

    Arguments
    ---------
    targets : torch.Tensor
        (N, output_size) with gradient.
    codes : torch.Tensor
        (N, groups) integers.
    logits : torch.Tensor
        (N, groups, num_codes) with gradient, without noise.
    """

    targets: torch.Tensor
    codes: torch.Tensor
    logits: torch.Tensor


class GumbelQuantizer(nn.Module):
    """A code of each of several groups, and a projection of them together (wav2vec 2.0, section 2).

    Everything is in fp32, whatever the autocast. Parameters of SpeechBrain's
    `W2VTargetQuantiser` load; they are initialised alike: the projection to the logits from
    N(0, 1) without bias, codes uniform in [0, 1).

    Arguments
    ---------
    input_size : int
        Width of the frames.
    num_codes : int
        V, in each group.
    groups : int
        G.
    code_size : int
        Width of a code.
    output_size : int
        Width of the targets.

    Raises
    ------
    UserError
        For a size that is not a whole number of at least 1.

    Example
    -------
    >>> quantizer = GumbelQuantizer(input_size=512)
    >>> sum(weight.numel() for weight in quantizer.parameters())
    476032
    >>> quantized = quantizer(torch.randn(7, 512))
    >>> quantized.targets.shape, quantized.codes.shape, quantized.logits.shape
    (torch.Size([7, 256]), torch.Size([7, 2]), torch.Size([7, 2, 320]))
    """

    def __init__(
        self,
        input_size: int,
        num_codes: int = 320,
        groups: int = 2,
        code_size: int = 128,
        output_size: int = 256,
    ) -> None:
        super().__init__()
        sizes = {"input_size": input_size, "num_codes": num_codes, "groups": groups}
        sizes |= {"code_size": code_size, "output_size": output_size}
        for name, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise UserError(f"{name} = {size}: give a whole number of at least 1")
        self.num_codes, self.groups, self.output_size = num_codes, groups, output_size
        self.codebook = nn.Parameter(torch.rand(groups, num_codes, code_size))
        self.to_logits = nn.Linear(input_size, groups * num_codes)
        nn.init.normal_(self.to_logits.weight)
        nn.init.zeros_(self.to_logits.bias)
        self.proj = nn.Linear(groups * code_size, output_size)
        self.register_load_state_dict_pre_hook(_accept_speechbrain_names)

    def forward(
        self,
        frames: torch.Tensor,
        noise: torch.Tensor | None = None,
        temperature: float | torch.Tensor = 1.0,
    ) -> Quantized:
        """Quantize frames.

        Arguments
        ---------
        frames : torch.Tensor
            (N, input_size).
        noise : torch.Tensor, optional
            (N, groups, num_codes) Gumbel noise of training; without it the codes have no gradient
            to the frames, and are those of the largest logits.
        temperature : float or torch.Tensor
            Of the softmax whose gradient the choice of a code has.

        Returns
        -------
        Quantized
        """
        if frames.shape[-1] != self.to_logits.in_features:
            raise UserError(
                f"the quantizer reads frames of {self.to_logits.in_features}, and the front end "
                f"makes {frames.shape[-1]}: give that as its input_size"
            )
        with torch.autocast(frames.device.type, enabled=False):
            logits = self.to_logits(frames.to(compute_dtype(frames.dtype)))
            logits = logits.unflatten(-1, (self.groups, self.num_codes))
            chosen = straight_through(logits, noise, temperature)
            codes = chosen.detach().argmax(-1)
            # One small product for each group: (N, V) by (V, code_size).
            parts = chosen.transpose(0, 1) @ self.codebook
            targets = self.proj(parts.transpose(0, 1).flatten(1))
        return Quantized(targets, codes, logits)

    def extra_repr(self) -> str:
        """The sizes, for `print(model)`."""
        return f"{self.groups} groups of {self.num_codes} codes"


def straight_through(
    logits: torch.Tensor, noise: torch.Tensor | None, temperature: float | torch.Tensor
) -> torch.Tensor:
    """One-hot vectors of the largest logits with noise, with the gradient of their softmax.

    Exactly one-hot, so that targets of equal codes are equal to the bit. Without noise (N, G, V)
    there is no gradient.

    >>> straight_through(torch.tensor([[[1.0, 3.0, 2.0]]]), None, 1.0)
    tensor([[[0., 1., 0.]]])
    """
    noisy = logits if noise is None else (logits + noise) / temperature
    largest = noisy.detach().argmax(-1, keepdim=True)
    hard = torch.zeros_like(noisy).scatter_(-1, largest, 1.0)
    if noise is None:
        return hard
    soft = noisy.softmax(-1)
    return hard + (soft - soft.detach())


def diversity_loss(logits: torch.Tensor) -> torch.Tensor:
    """How far the codes are from being used evenly: 0 if they are, nearly 1 if one is used.

    Arguments
    ---------
    logits : torch.Tensor
        (N, groups, V), without noise.

    Returns
    -------
    torch.Tensor
        Scalar: (G V - PP) / (G V), PP the sum of `perplexities` of the mean softmax.

    Example
    -------
    >>> diversity_loss(torch.zeros(7, 2, 320)).abs() < 1e-4
    tensor(True)
    """
    dtype = compute_dtype(logits.dtype)
    return diversity_of(logits.softmax(-1, dtype=dtype).mean(0))


def diversity_of(shares: torch.Tensor) -> torch.Tensor:
    """`diversity_loss` of the mean softmax (groups, V)."""
    return (shares.numel() - perplexities(shares).sum()) / shares.numel()


def perplexities(shares: torch.Tensor) -> torch.Tensor:
    """Exponential of the entropy of each group: shares (groups, V) to (groups,).

    >>> perplexities(torch.tensor([[0.5, 0.5], [1.0, 0.0]])).round(decimals=3)
    tensor([2., 1.])
    """
    return torch.exp(-(shares * torch.log(shares + EPSILON)).sum(-1))


def sample_gumbel(
    num_frames: Sequence[int],
    ids: Sequence[str],
    size: tuple[int, int],
    *,
    seed: int,
    epoch: int,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Gumbel noise of training: of each utterance a function of (seed, epoch, id) and the device.

    Arguments
    ---------
    num_frames : sequence of int
        (B,) masked frames of each utterance.
    ids : sequence of str
        (B,) utterance ids.
    size : tuple of int
        (groups, codes per group).
    seed : int
        Seed of the run.
    epoch : int
        From 1.
    device : torch.device or str
        Where it is drawn.

    Returns
    -------
    torch.Tensor
        (sum of num_frames, groups, codes), fp32: the utterances one after the other.

    Example
    -------
    >>> options = {"size": (2, 5), "seed": 1000, "epoch": 1}
    >>> both = sample_gumbel([3, 4], ["a", "b"], **options)
    >>> torch.equal(both[3:], sample_gumbel([4], ["b"], **options))
    True
    """
    generator = torch.Generator(device)
    noise = torch.empty(sum(num_frames), *size, device=device)
    for part, key in zip(noise.split(list(num_frames)), ids, strict=True):
        generator.manual_seed(derive_seed("wav2vec2 gumbel", seed, epoch, key))
        part.exponential_(generator=generator)
    return noise.log_().neg_()


_SPEECHBRAIN_NAMES = {"quantiser.vars": "codebook", "quantiser.weight_proj.": "to_logits."}


def _accept_speechbrain_names(module, state_dict, prefix, *_):
    state_dict.pop(f"{prefix}quantiser.max_ent", None)  # used by nothing
    for name in [name for name in state_dict if name.startswith(f"{prefix}quantiser.")]:
        ours = name.removeprefix(prefix)
        for theirs, new in _SPEECHBRAIN_NAMES.items():
            ours = ours.replace(theirs, new)
        value = state_dict.pop(name)
        state_dict[prefix + ours] = (
            value.view(module.codebook.shape) if ours == "codebook" else value
        )

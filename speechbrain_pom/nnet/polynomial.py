"""The Polynomial Mixer (PoM) with the signature of SpeechBrain's attention modules."""

import itertools
import math
from typing import Any

from torch import Tensor, nn

from speechbrain_pom.nnet.mixer import TokenMixer, register_mixer
from speechbrain_pom.nnet.projections import weights_of
from speechbrain_pom.ops import polynomial_mix
from speechbrain_pom.ops.common.masks import AttnMask
from speechbrain_pom.ops.common.sums import TimeSums
from speechbrain_pom.ops.polynomial import by_layers, polynomial_mix_with_sums, polynomial_sums
from speechbrain_pom.ops.polynomial.backends import BACKENDS, FORMER_NAMES
from speechbrain_pom.utils.errors import UserError

VARIANTS = ("base", "selective", "frequency2", "frequency3")


@register_mixer("PoM", "Polynomial Mixer: linear time (ICASSP 2026)")
class PolynomialMixer(TokenMixer):
    """PoM: linear-time token mixing through a mean of polynomial features.

    Every frame is gated against one state, the mean over the visible frames of products of
    projected frames (PoM for speech, ICASSP 2026, section 2; equations in `ops/README.md`):

        PoM(X) = LayerNorm( W_o ( sigmoid(W_s X) * mean_t [H_1 | ... | H_k] ) )

    Padded frames count neither in the sum nor in the length. Chunk and causal masks give each
    frame the mean over the frames that it may see, in linear time. There is one head.

    Arguments
    ---------
    d_model : int
        Width of the frames.
    degree : int
        k, order of the polynomial.
    expand : int
        D, width of a branch in units of d_model.
    variant : str
        "base"; "selective" (only the highest order, of one ReLU projection); "frequency2" or
        "frequency3" (2 or 3 contiguous groups of features with a state each).
    recompute : bool
        True: training keeps no expanded tensor and computes them again in the backward pass.
    backend : str
        "auto" (the fastest there is), or a name that `speechbrain_pom.ops.choose_backend` explains.
        `recompute` and `backend` have no effect while a projection has a hook or is not a plain
        `nn.Linear`.
    init_gain : float
        Initial gain of the last LayerNorm. That norm scales any output up to the size of the
        residual stream, and at the start over 90 % of its power is one vector, the same in all
        frames. 0.1 keeps it small until it carries information; 1 is the published value. The gain
        is learnt like any other weight.

    Raises
    ------
    UserError
        For an unknown variant or backend, a size that is not a whole number of at least 1, or a
        gain that is negative or not finite.

    Example
    -------
    >>> mixer = PolynomialMixer(d_model=8, degree=3)
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
    accepts_key = True
    num_passes = 1

    def __init__(
        self,
        d_model: int,
        degree: int = 2,
        expand: int = 2,
        variant: str = "base",
        recompute: bool = False,
        backend: str = "auto",
        init_gain: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in (("d_model", d_model), ("degree", degree), ("expand", expand)):
            self.check_size(name, value)
        self.check_choice("variant", variant, VARIANTS)
        backend = FORMER_NAMES.get(backend, backend)
        self.check_choice("backend", backend, BACKENDS)
        if not isinstance(init_gain, (int, float)) or not 0 <= init_gain < math.inf:
            raise UserError(
                f"PoM: init_gain is {init_gain!r}: give a number of at least 0 (1 as published)"
            )
        self.d_model = d_model
        self.degree = degree
        self.expand = expand
        self.variant = variant
        self.recompute = recompute
        self.backend = backend
        self.activation = "relu_power" if variant == "selective" else "gelu_product"
        branches = 1 if variant == "selective" else degree
        widths = _group_widths(d_model, variant)
        expanded = [branches * expand * width for width in widths]
        self.summary_size = sum(expanded)  # all polynomial features of all groups
        pairs = list(zip(widths, expanded, strict=True))
        self.poly_proj = nn.ModuleList(nn.Linear(width, size) for width, size in pairs)
        self.gate_proj = nn.ModuleList(nn.Linear(width, size) for width, size in pairs)
        self.out_proj = nn.Linear(self.summary_size, d_model)
        self.norm = nn.LayerNorm(d_model, eps=1e-5)
        nn.init.constant_(self.norm.weight, init_gain)
        self.register_load_state_dict_pre_hook(_accept_published_names)

    def mix_frames(
        self, query: Tensor, key: Tensor, attn_mask: AttnMask, key_padding_mask: Tensor | None
    ) -> Tensor:
        """Mix the frames; see `TokenMixer.forward`."""
        weights = weights_of(self.poly_proj, self.gate_proj, [self.out_proj])
        options = {
            "degree": self.degree,
            "activation": self.activation,
            "key": key,
            "key_padding_mask": key_padding_mask,
            "attn_mask": attn_mask,
        }
        if weights is None:
            layers = self.poly_proj, self.gate_proj, self.out_proj
            mixed = by_layers.polynomial_mix(query, *layers, widths=self._widths(), **options)
        else:
            poly, gate, (out,) = weights
            options |= {"recompute": self.recompute, "backend": self.backend}
            mixed = polynomial_mix(query, poly, gate, *out, **options)
        return self.norm(mixed)

    def summarise(
        self, key: Tensor, key_padding_mask: Tensor | None = None, earlier: Any = None
    ) -> TimeSums:
        """The sums over time of the polynomial features; see `TokenMixer.summarise`.

        Example
        -------
        >>> mixer, frames = PolynomialMixer(d_model=8), torch.randn(1, 50, 8)
        >>> first, second = frames.split(30, dim=1)
        >>> summary = mixer.summarise(first) + mixer.summarise(second)
        >>> torch.allclose(mixer.mix(second, summary), mixer(frames)[0][:, 30:], atol=1e-5)
        True
        """
        weights = weights_of(self.poly_proj)
        options = {
            "degree": self.degree,
            "activation": self.activation,
            "key_padding_mask": key_padding_mask,
        }
        if weights is None:
            widths = self._widths()
            return by_layers.polynomial_sums(key, self.poly_proj, widths=widths, **options)
        return polynomial_sums(key, *weights, backend=self.backend, **options)

    def mix(self, query: Tensor, summary: TimeSums) -> Tensor:
        """Mix frames of a sequence whose summary is known; see `TokenMixer.mix`."""
        weights = weights_of(self.gate_proj, [self.out_proj])
        if weights is None:
            layers = self.gate_proj, self.out_proj
            mixed = by_layers.polynomial_mix_with_sums(
                query, summary, *layers, widths=self._widths()
            )
        else:
            gate, (out,) = weights
            mixed = polynomial_mix_with_sums(query, summary, gate, *out, backend=self.backend)
        return self.norm(mixed)

    def _widths(self):
        return _group_widths(self.d_model, self.variant)

    def extra_repr(self) -> str:
        """The options, for `print(model)`."""
        return (
            f"d_model={self.d_model}, degree={self.degree}, expand={self.expand}, "
            f"variant={self.variant!r}"
        )


def _group_widths(d_model, variant):
    """Widths of the contiguous feature groups (paper: d//2 and rest; thirds by whole division)."""
    num_groups = {"frequency2": 2, "frequency3": 3}.get(variant, 1)
    if d_model < num_groups:
        raise UserError(f"PoM: d_model is {d_model}: {variant} needs at least {num_groups}")
    edges = [i * d_model // num_groups for i in range(num_groups + 1)]
    return [stop - start for start, stop in itertools.pairwise(edges)]


# Parameter names of the published checkpoints (hf, bf: first and second half of the features; 1 to
# 3: the thirds).
PUBLISHED_NAMES = {
    "mh_pom.po_proj.": "poly_proj.0.",
    "mh_pom.po_proj_hf.": "poly_proj.0.",
    "mh_pom.po_proj_bf.": "poly_proj.1.",
    "mh_pom.po_proj_1.": "poly_proj.0.",
    "mh_pom.po_proj_2.": "poly_proj.1.",
    "mh_pom.po_proj_3.": "poly_proj.2.",
    "mh_pom.se_proj.": "gate_proj.0.",
    "mh_pom.se_proj_hf.": "gate_proj.0.",
    "mh_pom.se_proj_bf.": "gate_proj.1.",
    "mh_pom.se_proj_1.": "gate_proj.0.",
    "mh_pom.se_proj_2.": "gate_proj.1.",
    "mh_pom.se_proj_3.": "gate_proj.2.",
    "mh_pom.ag_proj.": "out_proj.",
    "layer_norm.": "norm.",
}


def _accept_published_names(module, state_dict, prefix, *_):
    for published, ours in PUBLISHED_NAMES.items():
        for kind in ("weight", "bias"):
            if prefix + published + kind in state_dict:
                tensor = state_dict.pop(prefix + published + kind)
                state_dict[prefix + ours + kind] = tensor

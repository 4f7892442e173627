"""Changes of PoM that the protocol `study` tries, and that the package has no options for.

A command of the protocol gets them by `--__plugin '!apply:experiments.replica.variants.register'`.
"""

import torch
from torch import Tensor, nn

from speechbrain_pom.attention import register as register_plugin
from speechbrain_pom.attention import register_attention
from speechbrain_pom.nnet import PolynomialMixer, TokenMixer
from speechbrain_pom.ops import polynomial_mix
from speechbrain_pom.ops.common.masks import AttnMask

NORMS = ("output", "features", "none")


class StudyPoM(TokenMixer):
    """PoM with another scale of its products, place of its LayerNorm, or initialisation.

    Arguments
    ---------
    d_model : int
    degree, expand : int
        As of `PolynomialMixer`.
    init_gain : float
        Initial gain of the LayerNorm.
    product_scale : float
        The branches see W (s x) + b in place of W x + b, so that a product of k of them is about
        s^k as large.
    norm : str
        Place of the LayerNorm: "output" (as published), "features" (of the gated features, before
        W_o), or "none". SpeechBrain's Conformer has another one before the mixer, always.
    own_start : bool
        True: the projections keep the initialisation of `torch.nn.Linear`; else SpeechBrain's
        TransformerASR draws them again (Xavier).
    """

    accepts_chunk_mask = True

    def __init__(
        self,
        d_model: int,
        degree: int = 2,
        expand: int = 2,
        init_gain: float = 0.1,
        product_scale: float = 1.0,
        norm: str = "output",
        own_start: bool = False,
    ) -> None:
        super().__init__()
        self.check_choice("norm", norm, NORMS)
        published = PolynomialMixer(d_model, degree, expand, init_gain=init_gain)
        self.degree = degree
        self.product_scale = product_scale
        self.keeps_own_initialisation = own_start
        self.poly_proj, self.gate_proj = published.poly_proj, published.gate_proj
        self.out_proj = published.out_proj
        self.norm_place = norm
        self.norm = published.norm
        if norm == "features":
            self.norm = nn.LayerNorm(published.summary_size, eps=published.norm.eps)
            nn.init.constant_(self.norm.weight, init_gain)
        elif norm == "none":
            self.norm = nn.Identity()

    def reset_parameters(self) -> None:
        """Draw the projections as `torch.nn.Linear` does."""
        for layer in (*self.poly_proj, *self.gate_proj, self.out_proj):
            layer.reset_parameters()

    def mix_frames(
        self, query: Tensor, key: Tensor, attn_mask: AttnMask, key_padding_mask: Tensor | None
    ) -> Tensor:
        """Mix the frames; see `TokenMixer.forward`."""
        poly = [(self.product_scale * layer.weight, layer.bias) for layer in self.poly_proj]
        gate = [(layer.weight, layer.bias) for layer in self.gate_proj]
        out = self.out_proj.weight, self.out_proj.bias
        size = self.out_proj.in_features
        if self.norm_place == "features":  # the operator gives the features themselves
            out = torch.eye(size).to(query), torch.zeros(size).to(query)
        mixed = polynomial_mix(
            query,
            poly,
            gate,
            *out,
            degree=self.degree,
            attn_mask=attn_mask,
            key_padding_mask=key_padding_mask,
        )
        mixed = self.norm(mixed)
        return self.out_proj(mixed) if self.norm_place == "features" else mixed


def register() -> None:
    """Make `StudyPoM` an attention type."""
    register_plugin()
    register_attention("StudyPoM", StudyPoM, "PoM with changes for a study")

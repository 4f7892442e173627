"""SummaryMixing with the signature of SpeechBrain's attention modules."""

import itertools
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from speechbrain_pom.nnet.mixer import TokenMixer, register_mixer
from speechbrain_pom.nnet.projections import BlockDiagonal, weights_of
from speechbrain_pom.ops import summary_mixing
from speechbrain_pom.ops.common.masks import AttnMask
from speechbrain_pom.ops.common.sums import TimeSums
from speechbrain_pom.ops.summary_mixing import (
    ACTIVATIONS,
    by_layers,
    summary_mix_with_sums,
    summary_sums,
)
from speechbrain_pom.utils.errors import UserError

MODES = ("full", "lite")


@register_mixer("SummaryMixing", "SummaryMixing: mean over time, linear time (2307.07421)")
class SummaryMixing(TokenMixer):
    """SummaryMixing: linear-time token mixing through a mean over time.

    Every frame sees itself and the mean of the visible frames, both through MLPs (Interspeech
    2024, section 2; equations in `ops/README.md`). The layers of the MLPs are block-diagonal, a
    block per head, with a GELU after each:

        y_t = GELU( W [ f(x_t) | mean_t s(x_t) ] )        full
        y_t = mean_t s(x_t)                               lite

    Padded frames count neither in the sum nor in the length, and come out as zeros. Chunk and
    causal masks give each frame the mean over the frames that it may see, in linear time.

    SummaryMixing wav2vec 2.0 (arXiv 2407.13377) has `layer_norm=True, activation='swish'`, with all
    widths d_model (None): y_t = Swish( W [ LN_f(f(x_t)) | LN_s(mean_t s(x_t)) ] ).

    Arguments
    ---------
    d_model : int
        Width of the frames.
    nhead : int
        Blocks of each layer; it divides all widths.
    mode : str
        "full", or "lite", which has no local branch and does not use its options.
    local_proj_hid_dim : int or sequence of int, optional
        Widths of the hidden layers of f; None: d_model.
    local_proj_out_dim : int, optional
        Width of f's output; None: d_model.
    summary_hid_dim : int or sequence of int, optional
        Widths of the hidden layers of s; None: d_model.
    summary_out_dim : int, optional
        Width of s's output: d_model when not given, and always in mode lite.
    dropout : float
        Of the concatenation, in training.
    activation : str
        "gelu" or "swish", after every layer.
    layer_norm : bool
        A LayerNorm after f, and one after the mean of s.

    Raises
    ------
    UserError
        For an unknown mode or activation, a size that is not a whole number of at least 1, or one
        that nhead does not divide.

    Example
    -------
    >>> mixer = SummaryMixing(d_model=8, nhead=2, local_proj_hid_dim=[16], summary_hid_dim=12)
    >>> frames = torch.randn(2, 50, 8)
    >>> output, _ = mixer(frames)
    >>> output.shape
    torch.Size([2, 50, 8])
    >>> SummaryMixing(d_model=8, nhead=2, mode="lite")(frames)[0].shape
    torch.Size([2, 50, 8])
    """

    accepts_chunk_mask = True
    accepts_key = True
    num_passes = 1

    def __init__(
        self,
        d_model: int,
        nhead: int,
        mode: str = "full",
        local_proj_hid_dim: int | Sequence[int] | None = 512,
        local_proj_out_dim: int | None = 512,
        summary_hid_dim: int | Sequence[int] | None = 512,
        summary_out_dim: int | None = None,
        dropout: float = 0.1,
        activation: str = "gelu",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.check_choice("mode", mode, MODES)
        self.check_choice("activation", activation, ACTIVATIONS)
        if not isinstance(layer_norm, bool):
            raise UserError(f"SummaryMixing: layer_norm is {layer_norm!r}: give True or False")
        widths = (local_proj_hid_dim, local_proj_out_dim, summary_hid_dim, summary_out_dim)
        local_proj_hid_dim, local_proj_out_dim, summary_hid_dim, summary_out_dim = (
            d_model if width is None else width for width in widths
        )
        self.d_model = d_model
        self.nhead = nhead
        self.mode = mode
        self.local_proj_hid_dim = local_proj_hid_dim
        self.local_proj_out_dim = local_proj_out_dim
        self.summary_hid_dim = summary_hid_dim
        self.summary_out_dim = summary_out_dim
        self.dropout = dropout
        self.activation = activation
        self.check_size("nhead", nhead)
        self._check_sizes()
        summary_sizes = [d_model, *_sizes(summary_hid_dim), self.summary_out_dim]
        self.summary_proj = _block_diagonal_layers(summary_sizes, nhead)
        self.local_proj = self.merge_proj = self.local_norm = None
        self.summary_norm = nn.LayerNorm(self.summary_out_dim) if layer_norm else None
        if mode == "full":
            local_sizes = [d_model, *_sizes(local_proj_hid_dim), local_proj_out_dim]
            self.local_proj = _block_diagonal_layers(local_sizes, nhead)
            self.merge_proj = nn.Linear(local_proj_out_dim + self.summary_out_dim, d_model)
            self.local_norm = nn.LayerNorm(local_proj_out_dim) if layer_norm else None
        self.register_load_state_dict_pre_hook(_accept_published_names)

    def _check_sizes(self):
        names = ["d_model", "summary_hid_dim", "summary_out_dim"]
        if self.mode == "full":
            names += ["local_proj_hid_dim", "local_proj_out_dim"]
        for name in names:
            for size in _sizes(getattr(self, name)):
                self.check_size(name, size, self.nhead)
        if self.mode == "lite" and self.summary_out_dim != self.d_model:
            raise UserError(
                f"SummaryMixing: summary_out_dim is {self.summary_out_dim}: the summary is the "
                f"output of mode lite; leave it out, or give d_model, {self.d_model}"
            )

    def mix_frames(
        self, query: Tensor, key: Tensor, attn_mask: AttnMask, key_padding_mask: Tensor | None
    ) -> Tensor:
        """Mix the frames; see `TokenMixer.forward`."""
        weights = weights_of(self.summary_proj)
        local, local_weights = self._local()
        call = summary_mixing
        if weights is None or local_weights is None:
            call, weights, local_weights = by_layers.summary_mixing, [self.summary_proj], local
        return call(
            query,
            *weights,
            **local_weights,
            activation=self.activation,
            key=key,
            key_padding_mask=key_padding_mask,
            attn_mask=attn_mask,
            dropout=self.dropout if self.training else 0.0,
        )

    def summarise(
        self, key: Tensor, key_padding_mask: Tensor | None = None, earlier: Any = None
    ) -> TimeSums:
        """The sums over time of the summary branch; see `TokenMixer.summarise`."""
        options = {"key_padding_mask": key_padding_mask, "activation": self.activation}
        weights = weights_of(self.summary_proj)
        if weights is None:
            return by_layers.summary_sums(key, self.summary_proj, **options)
        return summary_sums(key, *weights, **options)

    def mix(self, query: Tensor, summary: TimeSums) -> Tensor:
        """Mix frames of a sequence whose summary is known; see `TokenMixer.mix`."""
        local, weights = self._local()
        options = {"activation": self.activation}
        if weights is None:
            return by_layers.summary_mix_with_sums(query, summary, **local, **options)
        return summary_mix_with_sums(query, summary, **weights, **options)

    @property
    def summary_size(self) -> int:
        """E, the width of the summary branch."""
        return self.summary_out_dim

    def _local(self):
        """What comes besides s, by name: as modules, and as weights if they may be read."""
        single = {"merge": self.merge_proj, "local_norm": self.local_norm}
        single["summary_norm"] = self.summary_norm
        single = {name: part for name, part in single.items() if part is not None}
        local = [] if self.local_proj is None else self.local_proj
        modules = {"local_layers": local, **single} if local else single
        weights = weights_of(local, single.values())
        if weights is not None:
            named = dict(zip(single, weights[1], strict=True))
            weights = {"local_layers": weights[0], **named} if local else named
        return modules, weights

    def extra_repr(self) -> str:
        """The options, for `print(model)`."""
        return f"d_model={self.d_model}, nhead={self.nhead}, mode={self.mode!r}"


def _sizes(size):
    """One width or several, as a list."""
    return list(size) if isinstance(size, (list, tuple)) else [size]


def _block_diagonal_layers(sizes, nhead):
    pairs = itertools.pairwise(sizes)
    return nn.ModuleList(BlockDiagonal(before, after, nhead) for before, after in pairs)


# Parameter names of the published checkpoints: layers linear, linear_0, linear_1, ...
_PUBLISHED_LAYER = re.compile(
    r"(local_proj|summary_proj)\.linear(?:_(\d+))?\.(weight|bias)(?:es|s)$"
)
_PUBLISHED_MERGE = "summary_local_merging.linear.w."


def _accept_published_names(module, state_dict, prefix, *_):
    for name in [name for name in state_dict if name.startswith(prefix)]:
        published = name.removeprefix(prefix)
        ours = published.replace(_PUBLISHED_MERGE, "merge_proj.")
        layer = _PUBLISHED_LAYER.match(published)
        if layer:
            mlp, number, kind = layer.groups()
            ours = f"{mlp}.{0 if number is None else int(number) + 1}.{kind}"
        if ours != published:
            state_dict[prefix + ours] = state_dict.pop(name)

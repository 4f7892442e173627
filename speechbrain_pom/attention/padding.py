"""Padding stays out of the convolutions of an encoder layer: each utterance encodes as if alone.

SpeechBrain's convolutions read the frames of padding before the layer masks them. Here are its
modules with a `forward` that changes what each convolution reads: zeros where SpeechBrain pads the
end of a sequence with zeros, the utterance's own reflection where it reflects the end. Without a
padding mask nothing changes.

The mask is passed along as an argument and no module stores it, so threads may share a model, and
activation checkpointing recomputes with the same mask. It is applied around the convolutions and
not inside them, so they may be wrapped. The classes keep the names of SpeechBrain's, by which
tools look for them.
"""

from speechbrain.lobes.models.transformer import Branchformer, Conformer, Transformer
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from speechbrain_pom.attention.front_end import take_lengths, take_no_lengths
from speechbrain_pom.attention.parts import (
    InCall,
    TellsLengths,
    become,
    become_itself,
    inside,
    reach_and_stride,
    with_own_ends,
)
from speechbrain_pom.ops import ChunkMask
from speechbrain_pom.utils.errors import UserError

PADDINGS = ("exact", "speechbrain")


class ConvolutionModule(Conformer.ConvolutionModule):
    """A Conformer layer's convolutions: zeros in the padding that the depthwise one reads."""

    original = Conformer.ConvolutionModule

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        dynchunktrain_config: DynChunkTrainConfig | None = None,
    ) -> Tensor:
        """As SpeechBrain's, for frames (B, T, d) and a mask (B, T, 1), True = padding."""
        if mask is None:
            return super().forward(x, mask, dynchunktrain_config)

        def bottleneck(x):
            return self.bottleneck(x).masked_fill(mask.transpose(1, 2), 0.0)

        return Conformer.ConvolutionModule.forward(
            InCall(self, bottleneck=bottleneck), x, mask, dynchunktrain_config
        )


class BranchformerEncoderLayer(Branchformer.BranchformerEncoderLayer):
    """A Branchformer layer: its convolution branch reads the utterance's own reflection.

    Everything before the branch's convolution sees single frames, so those may be reflected.
    """

    original = Branchformer.BranchformerEncoderLayer

    def forward(
        self,
        x: Tensor,
        src_mask: Tensor | ChunkMask | None = None,
        src_key_padding_mask: Tensor | None = None,
        pos_embs: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As SpeechBrain's."""
        if src_key_padding_mask is None:
            return super().forward(x, src_mask, src_key_padding_mask, pos_embs)
        lengths = _lengths(src_key_padding_mask)

        def branch(x):
            return with_own_ends(self.convolution_branch, x, lengths, self.branch_reach)

        return Branchformer.BranchformerEncoderLayer.forward(
            InCall(self, convolution_branch=branch), x, src_mask, src_key_padding_mask, pos_embs
        )


class Sequential(TellsLengths, nn.Sequential):
    """The feed-forward part of a Transformer layer with ffn_type="1dcnn"."""

    original = nn.Sequential


class TransformerEncoderLayer(Transformer.TransformerEncoderLayer):
    """A Transformer layer with convolutions in its feed-forward part (ffn_type="1dcnn")."""

    original = Transformer.TransformerEncoderLayer

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | ChunkMask | None = None,
        src_key_padding_mask: Tensor | None = None,
        pos_embs: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As SpeechBrain's."""
        if src_key_padding_mask is None:
            return super().forward(src, src_mask, src_key_padding_mask, pos_embs)
        lengths = _lengths(src_key_padding_mask)

        def pos_ffn(x):
            return self.pos_ffn(x, lengths)

        return Transformer.TransformerEncoderLayer.forward(
            InCall(self, pos_ffn=pos_ffn), src, src_mask, src_key_padding_mask, pos_embs
        )


def _lengths(key_padding_mask):
    return (~key_padding_mask).sum(1)


def isolate_padding(layer: nn.Module, only_for_spec: bool = False) -> None:
    """Keep the padding out of the convolutions of a SpeechBrain encoder layer.

    Arguments
    ---------
    layer : torch.nn.Module
        Layer of SpeechBrain's Conformer, Branchformer or Transformer encoder.
    only_for_spec : bool
        True: the encoder's attention spec asks for it, so a later spec may undo it, and a layer
        whose padding was set by `set_padding` keeps that setting.
    """
    if only_for_spec and getattr(layer, "padding_is_settled", False):
        return
    layer.padding_is_settled = not only_for_spec
    for module, kind in _repaired(layer):
        become(module, kind)


def restore_padding(layer: nn.Module, only_for_spec: bool = False) -> None:
    """Undo `isolate_padding`; `only_for_spec` as there."""
    if only_for_spec and getattr(layer, "padding_is_settled", False):
        return
    layer.padding_is_settled = not only_for_spec
    for module, kind in _repaired(layer):
        become_itself(module, kind)


def set_padding(padding: str, front_end: nn.Module | None, transformer: nn.Module) -> None:
    """Choose how a whole encoder, of any attention type, treats padding.

    Arguments
    ---------
    padding : str
        "exact": an utterance encodes the same alone and in any batch. "speechbrain": convolutions
        read the padding of the batch, as in SpeechBrain, to reproduce models that were trained so.
    front_end : torch.nn.Module or None
        SpeechBrain's `ConvolutionFrontEnd`, called with `front_end_lengths` from then on. None for
        one that handles its padding itself.
    transformer : torch.nn.Module
        SpeechBrain's `TransformerASR`.

    Raises
    ------
    UserError
        For another word, or a front end that cannot be made exact.

    Example
    -------
    >>> set_padding("same", None, None)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: padding is 'same': choose exact, or speechbrain to ...
    """
    if padding not in PADDINGS:
        raise UserError(
            f"padding is {padding!r}: choose exact, or speechbrain to reproduce what was trained so"
        )
    for layer in transformer.encoder.layers:
        isolate_padding(layer) if padding == "exact" else restore_padding(layer)
    if front_end is not None:
        take_lengths(front_end) if padding == "exact" else take_no_lengths(front_end)


def _repaired(layer):
    """The modules of a layer that need another `forward`, with their new classes."""
    for part in list(layer.modules()):
        if isinstance(part, Conformer.ConvolutionModule):
            yield part, ConvolutionModule
        elif isinstance(part, Branchformer.BranchformerEncoderLayer):
            part.branch_reach, _ = reach_and_stride(part.convolution_branch)
            yield part, BranchformerEncoderLayer
        elif isinstance(part, Transformer.TransformerEncoderLayer) and part.pos_ffn_type == "1dcnn":
            convolutions = inside(part.pos_ffn, nn.Sequential)
            convolutions.reaches = [reach_and_stride(child) for child in convolutions]
            yield from ((part, TransformerEncoderLayer), (convolutions, Sequential))

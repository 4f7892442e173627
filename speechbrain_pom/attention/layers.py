"""SpeechBrain's encoders and their layers."""

from speechbrain.lobes.models.transformer import Branchformer, Conformer, Transformer
from torch import nn

ENCODERS = (
    Conformer.ConformerEncoder,
    Transformer.TransformerEncoder,
    Branchformer.BranchformerEncoder,
)
LAYERS = (
    Conformer.ConformerEncoderLayer,
    Transformer.TransformerEncoderLayer,
    Branchformer.BranchformerEncoderLayer,
)


def mixer_of(layer: nn.Module) -> nn.Module | None:
    """The attention module of an encoder layer.

    Arguments
    ---------
    layer : torch.nn.Module
        Layer of one of SpeechBrain's encoders.

    Returns
    -------
    torch.nn.Module or None

    Example
    -------
    >>> layer = Transformer.TransformerEncoderLayer(8, 2, d_model=4)
    >>> type(mixer_of(layer)).__name__
    'MultiheadAttention'
    """
    name = "mha_layer" if not isinstance(layer, LAYERS[1]) else "self_att"
    return getattr(layer, name, None)

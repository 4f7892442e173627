"""Fastformer with the signature of SpeechBrain's attention modules."""

from torch import nn

from speechbrain_pom.nnet.projections import weights_of
from speechbrain_pom.nnet.summary_mixing import check_size
from speechbrain_pom.ops import fastformer
from speechbrain_pom.ops.fastformer import by_layers, fastformer_sums, mix_with_sums
from speechbrain_pom.utils.errors import UserError


class Fastformer(nn.Module):
    """Fastformer: linear-time token mixing by additive attention.

    A softmax over time sums the queries into one global query, and their products with the keys
    into one global key, which multiplies every query (arXiv 2108.09084, section 3; equations in
    `ops/README.md`). The value is the query, and there is a sum and softmax per head.

    Softmax and sums run over the valid frames only; padded frames come out as zeros. Causal and
    chunk masks are refused.

    Arguments
    ---------
    d_model : int
        Width of the frames.
    nhead : int
        Heads; a divisor of d_model.

    Raises
    ------
    UserError
        For a size that is not a whole number of at least 1, or if nhead does not divide d_model.

    Example
    -------
    >>> import torch
    >>> mixer = Fastformer(d_model=8, nhead=2)
    >>> frames = torch.randn(2, 50, 8)
    >>> output, _ = mixer(frames)
    >>> output.shape
    torch.Size([2, 50, 8])
    """

    accepts_chunk_mask = True  # it refuses one without building a (T, T) tensor first
    can_stream = False  # its softmaxes run over the whole utterance
    num_sweeps = 2  # over a sequence, by `summarise`, before `mix`: one for each softmax

    def __init__(self, d_model, nhead):
        super().__init__()
        check_size("Fastformer", "nhead", nhead)
        check_size("Fastformer", "d_model", d_model, nhead)
        self.d_model = d_model
        self.nhead = nhead
        # These are the published names.
        self.query_proj = nn.Linear(d_model, d_model)
        self.query_attn = nn.Linear(d_model, nhead)
        self.key_proj = nn.Linear(d_model, d_model)
        self.key_attn = nn.Linear(d_model, nhead)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(
        self,
        query,
        key=None,
        value=None,
        attn_mask=None,
        key_padding_mask=None,
        return_attn_weights=True,
        pos_embs=None,
    ):
        """Mix the frames.

        Arguments
        ---------
        query : torch.Tensor
            (B, T, d_model).
        key, value : torch.Tensor, optional
            Only for the signature: None, or the query itself.
        attn_mask : torch.Tensor or ChunkMask, optional
            Refused, unless it hides nothing.
        key_padding_mask : torch.Tensor, optional
            (B, T) boolean, True = padding.
        return_attn_weights : bool
            Only for the signature: there are no weights of pairs of frames.
        pos_embs : torch.Tensor, optional
            Only for the signature: positions are added to the encoder's input.

        Returns
        -------
        output : torch.Tensor
            (B, T, d_model).
        None
            In place of attention weights; a (B, T, T) tensor never exists.

        Raises
        ------
        UserError
            If key or value are other tensors than the query, or the mask hides a frame.
        """
        for name, tensor in (("key", key), ("value", value)):
            if tensor is not None and tensor is not query:
                raise UserError(
                    f"Fastformer: {name} is another tensor than query: it mixes one sequence "
                    "with itself; pass the query"
                )
        layers, weights = self._layers()
        masks = {"key_padding_mask": key_padding_mask, "attn_mask": attn_mask}
        if weights is None:
            return by_layers.fastformer(query, *layers, **masks), None
        return fastformer(query, *weights, **masks), None

    def summarise(self, key, key_padding_mask=None, earlier=None):
        """What the mixer knows of a sequence, in two sweeps over it; it may be given in parts.

        Arguments
        ---------
        key : torch.Tensor
            (B, T, d_model): the sequence, or a part of it.
        key_padding_mask : torch.Tensor, optional
            (B, T) boolean, True = padding.
        earlier : speechbrain_pom.ops.common.sums.SoftmaxSums, optional
            In the second sweep: the first one's summary of the whole sequence.

        Returns
        -------
        speechbrain_pom.ops.common.sums.SoftmaxSums
            Those of the parts, added up, are that of the whole.

        Example
        -------
        >>> import torch
        >>> mixer, frames = Fastformer(d_model=8, nhead=2), torch.randn(1, 50, 8)
        >>> parts, summary = frames.split(20, dim=1), None
        >>> for _ in range(mixer.num_sweeps):
        ...     first, second, third = (mixer.summarise(part, earlier=summary) for part in parts)
        ...     summary = first + second + third
        >>> torch.allclose(mixer.mix(parts[1], summary), mixer(frames)[0][:, 20:40], atol=1e-5)
        True
        """
        layers, weights = self._layers()
        options = {"key_padding_mask": key_padding_mask, "earlier": earlier}
        if weights is None:
            return by_layers.fastformer_sums(key, *layers[:4], **options)
        return fastformer_sums(key, *weights[:4], **options)

    def mix(self, query, summary):
        """Mix frames of a sequence whose summary is known.

        Arguments
        ---------
        query : torch.Tensor
            (B, T, d_model).
        summary : speechbrain_pom.ops.common.sums.SoftmaxSums
            Of the whole sequence, from the second sweep.

        Returns
        -------
        torch.Tensor
            (B, T, d_model), as `forward` gives it for these frames.
        """
        layers, weights = self._layers()
        if weights is None:
            return by_layers.fastformer_mix_with_sums(query, summary, layers[0], layers[4])
        return mix_with_sums(query, summary, weights[0], weights[2], weights[4])

    def _layers(self):
        """All projections, and their weights if they may be read."""
        layers = (self.query_proj, self.query_attn, self.key_proj, self.key_attn, self.out_proj)
        weights = weights_of(layers)
        return layers, None if weights is None else weights[0]

    def extra_repr(self):
        """The options, for `print(model)`."""
        return f"d_model={self.d_model}, nhead={self.nhead}"

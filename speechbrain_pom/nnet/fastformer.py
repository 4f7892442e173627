"""Fastformer with the signature of SpeechBrain's attention modules."""

from torch import Tensor, nn

from speechbrain_pom.nnet.mixer import TokenMixer, register_mixer
from speechbrain_pom.nnet.projections import weights_of
from speechbrain_pom.ops import fastformer
from speechbrain_pom.ops.common.masks import AttnMask
from speechbrain_pom.ops.fastformer import by_layers, fastformer_mix_with_sums, fastformer_sums
from speechbrain_pom.ops.fastformer.softmax_sums import SoftmaxSums


@register_mixer("Fastformer", "Fastformer: additive attention, linear time (2108.09084)")
class Fastformer(TokenMixer):
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
        For a size that is not a whole number of at least 1, or a d_model that is no multiple of
        nhead.

    Example
    -------
    >>> mixer = Fastformer(d_model=8, nhead=2)
    >>> frames = torch.randn(2, 50, 8)
    >>> output, _ = mixer(frames)
    >>> output.shape
    torch.Size([2, 50, 8])
    """

    accepts_chunk_mask = True  # it refuses one without building a (T, T) tensor first
    can_stream = False  # its softmaxes run over the whole utterance
    num_passes = 2  # one for each softmax

    def __init__(self, d_model: int, nhead: int) -> None:
        super().__init__()
        self.check_size("nhead", nhead)
        self.check_size("d_model", d_model, nhead)
        self.d_model = d_model
        self.nhead = nhead
        # These are the published names.
        self.query_proj = nn.Linear(d_model, d_model)
        self.query_attn = nn.Linear(d_model, nhead)
        self.key_proj = nn.Linear(d_model, d_model)
        self.key_attn = nn.Linear(d_model, nhead)
        self.out_proj = nn.Linear(d_model, d_model)

    def obstacle_to_steps(self, left_context_chunks: int | None = None) -> str | None:
        """Its second softmax weighs past frames anew in each chunk; see `TokenMixer`."""
        return (
            "Fastformer cannot stream: its softmaxes run over the whole utterance, and each chunk "
            "changes the weights of all frames before it; choose another attention_type"
        )

    def mix_frames(
        self, query: Tensor, key: Tensor, attn_mask: AttnMask, key_padding_mask: Tensor | None
    ) -> Tensor:
        """Mix the frames; see `TokenMixer.forward`."""
        layers, weights = self._layers()
        masks = {"key_padding_mask": key_padding_mask, "attn_mask": attn_mask}
        if weights is None:
            return by_layers.fastformer(query, *layers, **masks)
        return fastformer(query, *weights, **masks)

    def summarise(
        self,
        key: Tensor,
        key_padding_mask: Tensor | None = None,
        earlier: SoftmaxSums | None = None,
    ) -> SoftmaxSums:
        """The sums of the first softmax, then of the second; see `TokenMixer.summarise`.

        Example
        -------
        >>> mixer, frames = Fastformer(d_model=8, nhead=2), torch.randn(1, 50, 8)
        >>> parts, summary = frames.split(20, dim=1), None
        >>> for _ in range(mixer.num_passes):
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

    def mix(self, query: Tensor, summary: SoftmaxSums) -> Tensor:
        """Mix frames of a sequence whose summary is known; see `TokenMixer.mix`."""
        layers, weights = self._layers()
        if weights is None:
            return by_layers.fastformer_mix_with_sums(query, summary, layers[0], layers[4])
        return fastformer_mix_with_sums(query, summary, weights[0], weights[2], weights[4])

    def _layers(self):
        """All projections, and their weights if they may be read."""
        layers = (self.query_proj, self.query_attn, self.key_proj, self.key_attn, self.out_proj)
        weights = weights_of(layers)
        return layers, None if weights is None else weights[0]

    def extra_repr(self) -> str:
        """The options, for `print(model)`."""
        return f"d_model={self.d_model}, nhead={self.nhead}"

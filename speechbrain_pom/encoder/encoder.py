"""One speech encoder that everything shares: waveforms in, frames and their lengths out."""

from __future__ import annotations

import torch
from speechbrain.utils.logger import get_logger
from torch import nn

from speechbrain_pom.attention.calls import encode
from speechbrain_pom.attention.padding import set_padding
from speechbrain_pom.attention.positions import extend_positions
from speechbrain_pom.encoder.arguments import (
    check_num_frames,
    checked_chunks,
    lengths_in_samples,
)
from speechbrain_pom.encoder.features import FeatureExtractor
from speechbrain_pom.encoder.files import Files
from speechbrain_pom.encoder.front_ends import FrontEnd, SameConvolutions, front_end_of
from speechbrain_pom.encoder.hidden_states import HiddenStates, Layers
from speechbrain_pom.encoder.lengths import padding_mask, relative_lengths
from speechbrain_pom.encoder.streaming.methods import Streams
from speechbrain_pom.nnet import WeightedSum
from speechbrain_pom.ops import ChunkMask

logger = get_logger(__name__)


class SpeechEncoder(HiddenStates, Files, Streams, nn.Module):
    """A speech encoder from waveforms to frames: features, front end, Transformer.

    Pretraining trains it, fine-tuning starts from it, probes freeze it, inference loads it. An
    utterance gets the same frames alone or in any batch (fp32: 1e-4 relative), whatever the
    attention type. It is an ordinary module: freeze it, fine-tune it inside of another, wrap it in
    DDP, compile it, share it between threads. `load_encoder` makes one from a checkpoint.

    `forward` is `features`, a `FeatureExtractor`, and then `encode`. An objective that changes the
    features in between calls the two itself: `features(wavs, num_samples, epoch)` then also
    updates the statistics of global normalisation.

    Arguments
    ---------
    compute_features : torch.nn.Module
        SpeechBrain's `Fbank`, or a `Waveform` for a front end that reads waveforms.
    normalize : torch.nn.Module, optional
        SpeechBrain's `InputNormalization`; None for waveforms that are taken as they are.
    front_end : torch.nn.Module
        SpeechBrain's `ConvolutionFrontEnd`, or a module that is a `FrontEnd`.
    transformer : torch.nn.Module
        SpeechBrain's `TransformerASR`; its encoder is used.
    layers : str, int or sequence of int
        What `forward` returns: "last", the output of the encoder; the number of a hidden state (0
        is the input of the first layer, `num_layers` the output of the last one, before the last
        norm), or several numbers; or "sum", a learnt weighted sum of all of these.
    padding : str
        "speechbrain" for an encoder that was trained with SpeechBrain's padding: its convolutions
        read that of the batch, and what an utterance gets depends on the others.
    feature_floor : str
        Filter banks are limited to 80 dB below the loudest value of the "utterance", as in
        SpeechBrain, or of the "running" utterance so far, as in a stream.

    Raises
    ------
    UserError
        For layers that the encoder does not have, or another padding or floor.

    Example
    -------
    >>> from speechbrain.lobes.features import Fbank
    >>> from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
    >>> from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
    >>> from speechbrain.processing.features import InputNormalization
    >>> encoder = SpeechEncoder(
    ...     Fbank(n_mels=80),
    ...     InputNormalization(norm_type="sentence"),
    ...     ConvolutionFrontEnd(
    ...         input_shape=[8, 10, 80], num_blocks=2, num_layers_per_block=1, out_channels=[8, 4],
    ...         kernel_sizes=[3, 3], strides=[2, 2], residuals=[False, False],
    ...     ),
    ...     TransformerASR(
    ...         tgt_vocab=1, input_size=80, d_model=16, nhead=2, num_encoder_layers=2,
    ...         num_decoder_layers=0, d_ffn=32, encoder_module="conformer", attention_type="PoM",
    ...         normalize_before=True, causal=False,
    ...     ),
    ... ).eval()
    >>> frames, num_frames = encoder(torch.randn(2, 16000), torch.tensor([1.0, 0.6]))
    >>> frames.shape, num_frames
    (torch.Size([2, 26, 16]), tensor([26, 16]))
    >>> states, _ = encoder(torch.randn(1, 16000), layers=[0, 2])
    >>> [state.shape for state in states]
    [torch.Size([1, 26, 16]), torch.Size([1, 26, 16])]
    """

    def __init__(
        self,
        compute_features: nn.Module,
        normalize: nn.Module | None,
        front_end: nn.Module,
        transformer: nn.Module,
        layers: Layers = "last",
        padding: str = "exact",
        feature_floor: str = "utterance",
    ) -> None:
        super().__init__()
        adapted = front_end_of(front_end, padding)
        self.features = FeatureExtractor(
            compute_features, normalize, adapted.multiple, feature_floor
        )
        self.front_end = front_end
        self.transformer = transformer
        #: The dynamic chunks of its training, if a loaded model had any: see `trained_chunks`.
        self.trained_with_chunks: dict | None = None
        self._counts_itself = adapted is front_end
        self._geometry = adapted.stride, adapted.window
        set_padding(padding, None if self._counts_itself else front_end, transformer)
        self.padding = padding
        if padding != "exact":
            logger.warning(
                "padding is %s, as in its training: what an utterance gets depends on the others "
                "in its batch",
                padding,
            )
        extend_positions(transformer)
        # `encode` asks for hidden states where it needs them.
        transformer.output_hidden_states = transformer.encoder.output_hidden_states = False
        self.layers = layers if layers == "sum" else self.check_layers(layers)
        if layers == "sum":
            self.layer_sum = WeightedSum(self.num_states)
            # The states are taken before it, and DDP wants a gradient for what requires one.
            transformer.encoder.norm.requires_grad_(False)

    @property
    def sample_rate(self) -> int:
        """Sample rate of the waveforms, in Hz."""
        return self.features.sample_rate

    @property
    def hop_ms(self) -> float:
        """Between feature frames, in ms; between frames of the encoder it is stride times this."""
        return self.features.hop_ms

    @property
    def stride(self) -> int:
        """Feature frames per frame of the encoder."""
        return self._front_end.stride

    @property
    def samples_per_frame(self) -> int:
        """Samples between two frames of the encoder."""
        return self.features.hop_samples * self.stride

    @property
    def d_model(self) -> int:
        """Width of the frames."""
        return self.transformer.encoder.norm.norm.normalized_shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the encoder's weights; features are always fp32."""
        return next(self.front_end.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the encoder's weights."""
        return next(self.front_end.parameters()).device

    @property
    def checkpoint_modules(self) -> nn.ModuleList:
        """The trained modules, under the names of SpeechBrain's BEST-RQ recipe in a checkpoint."""
        wrapper = nn.ModuleDict({"transformer": self.transformer})
        return nn.ModuleList([self.front_end, wrapper])

    @property
    def _front_end(self) -> FrontEnd:
        if self._counts_itself:
            return self.front_end
        return SameConvolutions(self.front_end, *self._geometry, self.padding)

    def num_frames(self, num_samples: int | torch.Tensor) -> int | torch.Tensor:
        """The number of frames of an utterance, from its number of samples (same integer type)."""
        return self._front_end.num_frames(self.features.num_frames(num_samples))

    def num_samples(self, num_frames: int) -> int:
        """The number of samples of a part of a file, from its number of frames."""
        if not self._counts_itself:
            return num_frames * self.samples_per_frame
        num_features = (num_frames - 1) * self.stride + self.front_end.window
        return num_features * self.features.hop_samples

    def forward(
        self,
        wavs: torch.Tensor,
        lengths: torch.Tensor | None = None,
        layers: Layers | None = None,
        chunks: tuple[int, int | None] | ChunkMask | None = None,
    ) -> tuple[torch.Tensor | list[torch.Tensor], torch.Tensor]:
        """Encode a batch of waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            (B, samples) at `sample_rate`, padded on the right.
        lengths : torch.Tensor, optional
            (B,), in samples (integers) or relative to the longest (floats, as SpeechBrain's
            loaders give them); all samples are valid when not given.
        layers : str, int or sequence of int, optional
            As for the class, in place of what it was made with.
        chunks : tuple of (int, int or None) or ChunkMask, optional
            (C, left): the masked pass that a stream equals. Frames see their chunk of C frames and
            `left` chunks before it (None: all), and convolutions nothing beyond the chunk. The
            floor of the features is "running". A `ChunkMask` may have a half-life or resets too.

        Returns
        -------
        frames : torch.Tensor or list of torch.Tensor
            (B, T, d_model), exactly zero in padding; for several layers one for each.
        num_frames : torch.Tensor
            (B,) integers: the valid frames of each utterance.

        Raises
        ------
        UserError
            For waveforms, lengths, layers or chunks that cannot be.
        """
        num_samples = lengths_in_samples(wavs, lengths, self.sample_rate)
        if self._counts_itself:
            check_num_frames(self.num_frames(num_samples), num_samples)
        floor = None if chunks is None else "running"
        feats, num_features = self.features(wavs, num_samples, floor=floor)
        return self.encode(feats, num_features, layers, lengths is not None, chunks)

    def encode(
        self,
        feats: torch.Tensor,
        num_features: torch.Tensor,
        layers: Layers | None = None,
        padded: bool = True,
        chunks: tuple[int, int | None] | ChunkMask | None = None,
    ) -> tuple[torch.Tensor | list[torch.Tensor], torch.Tensor]:
        """Encode a batch of features: the second half of `forward`.

        Arguments
        ---------
        feats : torch.Tensor
            (B, N, num_mels), from `features`.
        num_features : torch.Tensor
            (B,) integers: the valid feature frames of each utterance.
        layers : str, int or sequence of int, optional
            As for the class, in place of what it was made with.
        padded : bool
            False where all utterances fill the batch: nothing is masked then.
        chunks : tuple of (int, int or None) or ChunkMask, optional
            As for `forward`.

        Returns
        -------
        frames : torch.Tensor or list of torch.Tensor
            (B, T, d_model), exactly zero in padding; for several layers one for each.
        num_frames : torch.Tensor
            (B,) integers: the valid frames of each utterance.
        """
        frames = self.embed(feats, num_features)
        num_frames = self._front_end.num_frames(num_features)
        return self.contextualise(frames, num_frames, layers, padded, chunks=chunks), num_frames

    def embed(self, feats: torch.Tensor, num_features: torch.Tensor) -> torch.Tensor:
        """The front end, the first half: (B, N, num_mels) to (B, T, ...); arguments as `encode`."""
        return self._front_end(feats.to(self.dtype), num_features)

    def contextualise(
        self,
        frames: torch.Tensor,
        num_frames: torch.Tensor,
        layers: Layers | None = None,
        padded: bool = True,
        mask: torch.Tensor | None = None,
        mask_vector: torch.Tensor | None = None,
        chunks: tuple[int, int | None] | ChunkMask | None = None,
    ) -> torch.Tensor | list[torch.Tensor]:
        """The Transformer, the second half of `encode`: an objective may mask frames before it.

        `frames` are (B, T, ...) from `embed`; the rest and the result as `encode`. Where `mask`
        (B, T) is True, `mask_vector` (d_model,) takes the place of the frame between the input
        projection and the positions, as in wav2vec 2.0.
        """
        layers = self.layers if layers is None else self.check_layers(layers)
        relative = relative_lengths(num_frames, frames.shape[1]) if padded else None
        hidden = layers != "last"
        chunks = checked_chunks(chunks, self.transformer.encoder)
        encoded = encode(self.transformer, frames, relative, hidden, mask, mask_vector, chunks)
        if hidden:
            encoded = self.choose(encoded[1], layers)
        if padded:
            padding = padding_mask(num_frames, frames.shape[1]).unsqueeze(-1)
            several = isinstance(encoded, list)
            zeroed = [one.masked_fill(padding, 0.0) for one in (encoded if several else [encoded])]
            encoded = zeroed if several else zeroed[0]
        return encoded

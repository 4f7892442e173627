"""A pretrained encoder as one module: waveforms in, frames and their lengths out."""

import copy
import numbers
from collections.abc import Sequence

import torch
from speechbrain.utils.logger import get_logger
from torch import nn

from speechbrain_pom.attention.front_end import front_end_lengths
from speechbrain_pom.attention.padding import set_padding
from speechbrain_pom.attention.positions import extend_positions
from speechbrain_pom.data.audio_files import SAMPLE_RATE
from speechbrain_pom.data.audio_reader import AudioReader
from speechbrain_pom.encoder.features import FeatureExtractor
from speechbrain_pom.encoder.windows.overlapping import encode_windows
from speechbrain_pom.nnet import WeightedSum
from speechbrain_pom.objectives.bestrq import (
    num_encoder_frames,
    num_feature_frames,
    padding_mask,
    relative_lengths,
)
from speechbrain_pom.utils.errors import UserError

logger = get_logger(__name__)


class SpeechEncoder(nn.Module):
    """Features, front end and encoder of the recipes, from waveforms to frames.

    An utterance gets the same frames alone or in any batch (fp32: 1e-4 relative), whatever the
    attention type. It is an ordinary module: freeze it, fine-tune it inside of another, wrap it in
    DDP, compile it, share it between threads. `load_encoder` makes one from a checkpoint.

    Arguments
    ---------
    compute_features, normalize : torch.nn.Module
        SpeechBrain's `Fbank` and `InputNormalization`.
    front_end : torch.nn.Module
        SpeechBrain's `ConvolutionFrontEnd`.
    transformer : torch.nn.Module
        SpeechBrain's `TransformerASR`; its encoder is used.
    layers : str, int or sequence of int
        What `forward` returns: "last", the output of the encoder; the number of a hidden state (0
        is the input of the first layer, `num_layers` the output of the last one, before the last
        norm), or several numbers; or "sum", a learnt weighted sum of all of these.
    padding : str
        "speechbrain" for an encoder that was trained with SpeechBrain's padding: its convolutions
        read that of the batch, and what an utterance gets depends on the others.

    Raises
    ------
    UserError
        For layers that there are not, or another padding.

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
        compute_features,
        normalize,
        front_end,
        transformer,
        layers="last",
        padding="exact",
    ):
        super().__init__()
        stride = front_end.get_filter_properties().stride
        self.features = FeatureExtractor(compute_features, normalize, stride)
        self.front_end = front_end
        self.transformer = transformer
        set_padding(padding, front_end, transformer)
        self.padding = padding
        if padding != "exact":
            logger.warning(
                "padding is %s, as in its training: what an utterance gets depends on the others "
                "in its batch",
                padding,
            )
        extend_positions(transformer)
        # `forward` asks for hidden states where it needs them.
        transformer.output_hidden_states = transformer.encoder.output_hidden_states = False
        self.layers = layers if layers == "sum" else self.check_layers(layers)
        if layers == "sum":
            self.layer_sum = WeightedSum(self.num_layers + 1)
            # The states are taken before it, and DDP wants a gradient for what requires one.
            transformer.encoder.norm.requires_grad_(False)

    @property
    def sample_rate(self):
        """Of the waveforms, in Hz."""
        return self.features.sample_rate

    @property
    def hop_ms(self):
        """Between feature frames, in ms; between frames of the encoder it is stride times this."""
        return self.features.hop_ms

    @property
    def stride(self):
        """Feature frames per frame of the encoder."""
        return self.features.stride

    @property
    def samples_per_frame(self):
        """Samples between two frames of the encoder."""
        return round(self.sample_rate / 1000 * self.hop_ms) * self.stride

    @property
    def d_model(self):
        """Width of the frames."""
        return self.transformer.encoder.norm.norm.normalized_shape[0]

    @property
    def num_layers(self):
        """Layers of the encoder; there is one hidden state more."""
        return len(self.transformer.encoder.layers)

    @property
    def dtype(self):
        """Of the encoder's weights; features are always fp32."""
        return next(self.front_end.parameters()).dtype

    @property
    def device(self):
        """Of the encoder's weights."""
        return next(self.front_end.parameters()).device

    def num_frames(self, num_samples):
        """Count the frames of an utterance.

        Arguments
        ---------
        num_samples : int or torch.Tensor
            Integers.

        Returns
        -------
        int or torch.Tensor
        """
        feature_frames = num_feature_frames(num_samples, self.sample_rate, self.hop_ms)
        return num_encoder_frames(feature_frames, self.stride)

    def forward(self, wavs, lengths=None, layers=None):
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

        Returns
        -------
        frames : torch.Tensor or list of torch.Tensor
            (B, T, d_model), exactly zero in padding; for several layers one for each.
        num_frames : torch.Tensor
            (B,) integers: the valid frames of each utterance.

        Raises
        ------
        UserError
            For waveforms, lengths or layers that cannot be.
        """
        layers = self.layers if layers is None else self.check_layers(layers)
        num_samples = self._num_samples(wavs, lengths)
        frames, num_frames = self.embed(wavs, num_samples)
        relative = None if lengths is None else relative_lengths(num_frames, frames.shape[1])
        if layers == "last":
            encoded = self.transformer.encode(frames, relative)
        else:
            _, states = _with_hidden_states(self.transformer).encode(frames, relative)
            encoded = self.choose(states, layers)
        if lengths is not None:
            padding = padding_mask(num_frames, frames.shape[1]).unsqueeze(-1)
            several = isinstance(encoded, list)
            zeroed = [one.masked_fill(padding, 0.0) for one in (encoded if several else [encoded])]
            encoded = zeroed if several else zeroed[0]
        return encoded, num_frames

    def embed(self, wavs, num_samples):
        """What the encoder's layers are given, before their projection and positions.

        Arguments
        ---------
        wavs : torch.Tensor
            (B, samples), padded on the right.
        num_samples : torch.Tensor
            (B,) integers.

        Returns
        -------
        frames : torch.Tensor
            (B, T, frequencies, channels).
        num_frames : torch.Tensor
            (B,) integers.
        """
        feats, num_feature = self.features(wavs, num_samples)
        num_frames = num_encoder_frames(num_feature, self.stride)
        return self.embed_features(feats, num_frames), num_frames

    def embed_features(self, feats, num_frames):
        """The front end on features, in which every utterance ends as it would alone.

        Arguments
        ---------
        feats : torch.Tensor
            (B, T * stride, num_mels)
        num_frames : torch.Tensor
            (B,) integers, at most T.

        Returns
        -------
        torch.Tensor
            (B, T, frequencies, channels)
        """
        lengths = front_end_lengths(self.padding, num_frames, self.stride)
        return self.front_end(feats.to(self.dtype), *lengths)

    def choose(self, states, layers):
        """Of all hidden states those that `layers` asks for.

        Arguments
        ---------
        states : list of torch.Tensor
            (B, T, d_model), `num_layers` + 1 of them.
        layers : str, int or sequence of int
            "sum", or numbers.

        Returns
        -------
        torch.Tensor or list of torch.Tensor
        """
        if layers == "sum":
            return self.layer_sum(states)
        return states[layers] if isinstance(layers, int) else [states[i] for i in layers]

    def encode_file(self, path, layers=None, window_s=None, overlap_s=None):
        """Encode an audio file of any sample rate, number of channels and length.

        Arguments
        ---------
        path : str or pathlib.Path
            Resampled and mixed down to mono as needed.
        layers : str, int or sequence of int, optional
            As for `forward`.
        window_s : float, optional
            Longer files are encoded in windows of so many seconds, in the memory of one window
            (and of the result, which is then on the CPU): see
            `speechbrain_pom.inference.encode_windows` for how they agree with a single pass, which
            is the default.
        overlap_s : float, optional
            Of the windows, for attention types that need it.

        Returns
        -------
        torch.Tensor or list of torch.Tensor
            (T, d_model), without gradient.

        Raises
        ------
        UserError
            If the file cannot be read, or the encoder is in training mode.
        """
        if self.training:
            raise UserError("the encoder is in training mode: call encoder.eval() before files")
        if self.sample_rate != SAMPLE_RATE:
            raise UserError(
                f"the encoder reads {self.sample_rate} Hz, and files are read at {SAMPLE_RATE} Hz: "
                "read and resample them yourself, and call the encoder"
            )
        layers = self.layers if layers is None else self.check_layers(layers)
        with AudioReader(path) as reader, torch.no_grad():
            if window_s is not None and reader.duration_s > window_s:
                how = {"window_s": window_s, "overlap_s": overlap_s, "layers": layers}
                return encode_windows(self, reader, **how)
            wav = reader.read(0, reader.num_samples).to(self.device)
            frames, _ = self(wav.unsqueeze(0), layers=layers)
        return [one[0] for one in frames] if isinstance(frames, list) else frames[0]

    def check_layers(self, layers):
        """Refuse layers that there are not.

        Arguments
        ---------
        layers : str, int or sequence of int
            As for the class.

        Returns
        -------
        str, int or list of int

        Raises
        ------
        UserError
        """
        if layers == "last" or (layers == "sum" and hasattr(self, "layer_sum")):
            return layers
        if layers == "sum":
            raise UserError(
                "layers is 'sum', but its weights were not made: load with layers='sum'"
            )
        several = isinstance(layers, Sequence) and not isinstance(layers, str)
        numbers_ = list(layers) if several else [layers]
        for number in numbers_:
            whole = isinstance(number, numbers.Integral) and not isinstance(number, bool)
            if not whole or not 0 <= number <= self.num_layers:
                raise UserError(
                    f"layers is {layers!r}: give 'last', 'sum', or numbers from 0 (the input of "
                    f"the first layer) to {self.num_layers}"
                )
        if not numbers_:
            raise UserError("layers is empty: give 'last', 'sum', or numbers")
        return [int(number) for number in numbers_] if several else int(layers)

    def _num_samples(self, wavs, lengths):
        if wavs.dim() != 2 or wavs.shape[1] == 0 or not wavs.is_floating_point():
            raise UserError(
                f"wavs is {wavs.dtype} {tuple(wavs.shape)}: give floats (batch, samples), at least "
                f"one sample at {self.sample_rate} Hz"
            )
        if lengths is None:
            return torch.full((wavs.shape[0],), wavs.shape[1], device=wavs.device)
        if lengths.shape != wavs.shape[:1]:
            raise UserError(
                f"lengths is {tuple(lengths.shape)} for {wavs.shape[0]} waveforms: give one for "
                "each"
            )
        lengths = lengths.to(wavs.device)
        if lengths.is_floating_point():
            lengths = (lengths.double() * wavs.shape[1]).round().long()
        if not torch.compiler.is_compiling():
            _check_range(lengths, wavs.shape[1])
        return lengths


def _check_range(num_samples, longest):
    if not bool(((num_samples >= 1) & (num_samples <= longest)).all()):
        raise UserError(
            f"lengths are {num_samples.tolist()} samples: each must be from 1 to {longest}, or "
            "relative (floats) and at most 1.0"
        )


def _with_hidden_states(transformer):
    """A view of a TransformerASR that also returns its hidden states; all modules are shared.

    SpeechBrain takes this from attributes. They are not switched on the module itself, where a
    second thread would meet them half-way.
    """
    view = copy.copy(transformer)
    view._modules = dict(transformer._modules)
    view.encoder = copy.copy(transformer.encoder)
    view.encoder.output_hidden_states = view.output_hidden_states = True
    return view

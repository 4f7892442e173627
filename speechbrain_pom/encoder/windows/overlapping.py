"""Hours of audio through an encoder in the memory of a window.

Exactly, where every mixer sees a sequence through a summary that can be added up over its parts
(exact.py); otherwise by windows that overlap and know nothing of each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.encoder.windows.exact import ExactWindows, obstacle_to_exactness
from speechbrain_pom.utils.errors import UserError

if TYPE_CHECKING:  # the encoder stands on this module
    from speechbrain_pom.encoder.encoder import Layers, SpeechEncoder

DEFAULT_OVERLAP = 1 / 6  # of the window


def windows_are_exact(encoder: SpeechEncoder) -> bool:
    """Whether `encode_windows` gives the frames of a single pass.

    Arguments
    ---------
    encoder : SpeechEncoder

    Returns
    -------
    bool
        True for stacks of PoM, SummaryMixing and Fastformer without causal masks; False with any
        attention, Mamba or other mixer, or a layer or front end that is not SpeechBrain's own.

    Example
    -------
    >>> from hyperpyyaml import load_hyperpyyaml
    >>> from speechbrain_pom.encoder.encoder import SpeechEncoder
    >>> text = '''
    ... compute_features: !new:speechbrain.lobes.features.Fbank
    ...     n_mels: 80
    ... normalize: !new:speechbrain.processing.features.InputNormalization
    ... front_end: !new:speechbrain.lobes.models.convolution.ConvolutionFrontEnd
    ...     input_shape: [8, 10, 80]
    ...     num_blocks: 1
    ...     num_layers_per_block: 1
    ...     out_channels: [2]
    ...     strides: [2]
    ... transformer: !new:speechbrain.lobes.models.transformer.TransformerASR.TransformerASR
    ...     {tgt_vocab: 1, input_size: 80, d_model: 8, nhead: 2, num_encoder_layers: 2, d_ffn: 8,
    ...      num_decoder_layers: 0, encoder_module: conformer, attention_type: %s, causal: False,
    ...      normalize_before: True}
    ... '''
    >>> for spec in ("PoM", "PoM + RoPEMHA"):
    ...     windows_are_exact(SpeechEncoder(**load_hyperpyyaml(text % spec)))
    True
    False
    """
    return obstacle_to_exactness(encoder) is None


def encode_windows(
    encoder: SpeechEncoder,
    reader: AudioReader,
    *,
    window_s: float = 30.0,
    overlap_s: float | None = None,
    layers: Layers | None = None,
    out: torch.Tensor | list[torch.Tensor] | None = None,
    progress: Callable[[float], None] | None = None,
) -> torch.Tensor | list[torch.Tensor]:
    """Encode a file of any length, window by window.

    Where `windows_are_exact`, the frames are those of the single pass `encoder(wav[None])`: the
    largest difference is below 1e-4 of the largest value (fp32, all frames, any window). The file
    is read two times (three with normalisation per sentence), and every layer takes two passes over
    the frames (three for Fastformer), all but the last one only up to the layer's mixer.

    Other encoders are given windows that overlap, each as if it were a file, and half of the
    overlap is dropped on either side of a cut. What a frame gets from beyond its window is missing,
    and there is no general bound for that: it depends on how far the model looks. Compare
    window lengths on your own data. With one window for the whole file both ways are the single
    pass.

    Arguments
    ---------
    encoder : SpeechEncoder
        In eval mode, on any device.
    reader : AudioReader
        The file; anything with `num_samples` and `read(start, stop)`, at the encoder's sample rate.
    window_s : float
        Seconds of a window: memory is that of one window, and of the result.
    overlap_s : float, optional
        Seconds that neighbouring windows share, where they are not exact; a sixth of the window
        when not given.
    layers : str, int or sequence of int, optional
        As for `SpeechEncoder.forward`. Exact windows hold a further (T, d_model) tensor for "sum".
    out : torch.Tensor or list of torch.Tensor, optional
        (T, d_model) on the CPU, for several layers one for each: written to instead of new
        tensors. One over a `numpy.memmap` keeps the result out of memory too.
    progress : callable, optional
        Called with the share of the work that is done, above 0 and up to 1.

    Returns
    -------
    torch.Tensor or list of torch.Tensor
        (T, d_model) on the CPU, T = `encoder.num_frames(reader.num_samples)`.

    Raises
    ------
    UserError
        If the encoder is in training mode, or for a window, overlap or `out` that cannot be.

    Example
    -------
    >>> import numpy as np
    >>> import soundfile
    >>> from speechbrain.lobes.features import Fbank
    >>> from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
    >>> from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
    >>> from speechbrain.processing.features import InputNormalization
    >>> from speechbrain_pom.data.audio.reader import AudioReader
    >>> from speechbrain_pom.inference import SpeechEncoder
    >>> front_end = ConvolutionFrontEnd(
    ...     [8, 10, 80], 2, 1, [8, 4], kernel_sizes=[3, 3], strides=[2, 2], residuals=[False, False]
    ... )
    >>> def encoder_of(attention_type):
    ...     transformer = TransformerASR(
    ...         1, 80, d_model=16, nhead=2, num_encoder_layers=2, num_decoder_layers=0, d_ffn=32,
    ...         encoder_module="conformer", attention_type=attention_type, causal=False,
    ...         normalize_before=True,
    ...     )
    ...     normalize = InputNormalization(norm_type="sentence")
    ...     return SpeechEncoder(Fbank(n_mels=80), normalize, front_end, transformer).eval()
    >>> windows_are_exact(encoder_of("Mamba")), windows_are_exact(encoder_of("PoM"))
    (False, True)
    >>> encoder, folder = encoder_of("PoM"), getfixture("tmp_path")
    >>> soundfile.write(folder / "a.wav", 0.1 * np.random.randn(40_000), 16000)
    >>> with AudioReader(folder / "a.wav") as reader:
    ...     shape = encoder.num_frames(reader.num_samples), encoder.d_model
    ...     file = np.lib.format.open_memmap(folder / "a.npy", "w+", "float32", shape=shape)
    ...     frames = encode_windows(encoder, reader, window_s=1.0, out=torch.from_numpy(file))
    >>> bool(torch.allclose(frames, encoder.encode_file(folder / "a.wav"), atol=1e-4))
    True
    """
    if encoder.training:
        raise UserError("the encoder is in training mode: call encoder.eval() before files")
    layers = encoder.layers if layers is None else encoder.check_layers(layers)
    window = _to_frames(encoder, "window_s", window_s)
    overlap_s = DEFAULT_OVERLAP * window_s if overlap_s is None else overlap_s
    overlap = _to_frames(encoder, "overlap_s", overlap_s, least=0)
    out = _buffers(encoder, reader, layers, out)
    with torch.inference_mode():
        if windows_are_exact(encoder):
            ExactWindows(encoder, reader, window, progress).encode(layers, out)
        else:
            if overlap >= window:
                raise UserError(
                    f"overlap_s is {overlap_s:g}, window_s is {window_s:g}: give an overlap "
                    "shorter than the window"
                )
            _encode_overlapping(encoder, reader, (window, overlap), layers, out, progress)
    return out if isinstance(layers, list) else out[0]


def _to_frames(encoder, name, seconds, least=1):
    if not (math.isfinite(seconds) and seconds >= 0) or (least and not seconds):
        raise UserError(f"{name} is {seconds}: give seconds, {'more than' if least else 'from'} 0")
    return max(least, round(seconds * encoder.sample_rate / encoder.samples_per_frame))


def _buffers(encoder, reader, layers, out):
    """A (T, d) tensor for each layer, the given ones after a check."""
    shape = encoder.num_frames(reader.num_samples), encoder.d_model
    count = len(layers) if isinstance(layers, list) else 1
    if out is None:
        with torch.inference_mode(False):  # else no gradient could be computed from the result
            return [torch.empty(shape, dtype=encoder.dtype) for _ in range(count)]
    given = list(out) if isinstance(layers, list) else [out]
    found = [(str(one.dtype), tuple(one.shape), one.device.type) for one in given]
    if found != [(str(encoder.dtype), shape, "cpu")] * count:
        raise UserError(
            f"out is {found}: give {count} x {encoder.dtype} {shape} on the CPU, as "
            "encoder.num_frames(num_samples) and encoder.d_model say"
        )
    return given


def _encode_overlapping(encoder, reader, sizes, layers, out, progress):
    """Each window as if it were a file; the last one reaches back to be as long as the others."""
    window, overlap = sizes
    num_frames, samples_per_frame = len(out[0]), encoder.samples_per_frame
    last = max(0, num_frames - window)
    starts = [*range(0, last, window - overlap), last]
    kept = 0
    for number, start in enumerate(starts):
        stop = num_frames if start == last else starts[number + 1] + overlap // 2
        end = start * samples_per_frame + encoder.num_samples(window)
        end = min(end, reader.num_samples)
        wav = reader.read(start * samples_per_frame, end).to(encoder.device)
        found, _ = encoder(wav.unsqueeze(0), layers=layers)
        for target, frames in zip(out, found if isinstance(layers, list) else [found], strict=True):
            target[kept:stop] = frames[0, kept - start : stop - start]
        kept = stop
        if progress:
            progress((number + 1) / len(starts))

"""What an encoder's first layer is given for a part of a file: that of the whole file.

Features at the edges of a part need the samples around it, and so do the convolutions of the front
end. SpeechBrain limits the range of the features to a number of decibels below the loudest value of
the utterance, and may normalise by the utterance's own mean: what depends on the whole file is
found by passes over it before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.convolution import ConvolutionFrontEnd

from speechbrain_pom.attention.parts import original_class
from speechbrain_pom.attention.positions import (
    ExtendedSinePositions,
    NoPositions,
    positions_between,
)
from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.encoder.filter_banks import unlimited
from speechbrain_pom.encoder.front_ends import ValidConvolutions
from speechbrain_pom.encoder.lengths import pad_to_multiple

if TYPE_CHECKING:  # the encoder stands on this module
    from speechbrain_pom.encoder.encoder import SpeechEncoder


def obstacle_to_parts(encoder: SpeechEncoder) -> str | None:
    """Why the input of the first layer cannot be computed part by part.

    Arguments
    ---------
    encoder : SpeechEncoder

    Returns
    -------
    str or None
        None if it can.
    """
    positions = getattr(encoder.transformer, "positional_encoding", None)
    if type(positions) not in (NoPositions, ExtendedSinePositions):
        return "its positions are not sines at its input"
    return obstacle_to_front_end(encoder)


def obstacle_to_front_end(encoder: SpeechEncoder) -> str | None:
    """Why the frames of the front end cannot be computed part by part; None if they can."""
    fbank = encoder.features.compute_features
    if type(fbank) is not Fbank or not fbank.compute_STFT.center:
        return "its features are not SpeechBrain's Fbank"
    if original_class(encoder.front_end) not in (ConvolutionFrontEnd, ValidConvolutions):
        return "its front end is neither SpeechBrain's ConvolutionFrontEnd nor ValidConvolutions"
    return None


class WindowInputs:
    """The input of an encoder's first layer, part by part, after the passes that it needs.

    Arguments
    ---------
    encoder : SpeechEncoder
        Without an `obstacle_to_parts`.
    reader : AudioReader
        The file.
    """

    def __init__(self, encoder: SpeechEncoder, reader: AudioReader) -> None:
        self.encoder = encoder
        self.reader = reader
        self.num_frames = encoder.num_frames(reader.num_samples)
        features = encoder.features
        self._num_features = features.num_frames(reader.num_samples)
        stft = features.compute_features.compute_STFT
        self._hop = stft.hop_length
        self._feature_context = math.ceil(stft.n_fft / 2 / self._hop)
        self._valid = isinstance(encoder.front_end, ValidConvolutions)
        if not self._valid:
            front_end = encoder.front_end.get_filter_properties()
            self._frame_context = math.ceil(front_end.window_size / front_end.stride)
        self._running = features.floor == "running"
        self._floor = self._statistics = None

    @property
    def num_passes(self) -> int:
        """Passes over the file before `embed`."""
        return 2 if self.encoder.features.norm_type == "sentence" else 1

    def run_pass(self, windows: Callable[[], Iterator[tuple[int, int]]]) -> None:
        """Find what depends on the whole file.

        Arguments
        ---------
        windows : callable
            Gives the ranges of frames of a pass.
        """
        peaks = [
            self._features(*self._span(start, stop)).amax(-1, keepdim=True)
            for start, stop in windows()
        ]
        if self._running:
            peaks = torch.cat(peaks, dim=1).cummax(1).values
        else:
            # The limit of a part is lower than that of the file, so both together are the file's.
            peaks = torch.stack([part.amax() for part in peaks]).amax()
        self._floor = peaks - self.encoder.features.compute_features.compute_fbanks.top_db
        if self.encoder.features.norm_type == "sentence":
            self._measure(windows)

    def _measure(self, windows):
        """Mean and deviation of the limited features over the file."""
        total = squares = 0.0
        for start, stop in windows():
            part = self._limited(*self._span(start, stop))[0].cpu().double()
            total, squares = total + part.sum(0), squares + part.square().sum(0)
        mean = total / self._num_features
        variance = (squares / self._num_features - mean.square()).clamp(min=0)
        if not self.encoder.features.normalize.std_norm:
            variance = torch.ones_like(variance)
        device = self.encoder.device
        self._statistics = mean.float().to(device), variance.sqrt().float().to(device)

    def embed(self, start: int, stop: int) -> torch.Tensor:
        """The input of the first layer for some frames.

        Arguments
        ---------
        start, stop : int
            Frames of the encoder.

        Returns
        -------
        torch.Tensor
            (1, stop - start, d_model), on the encoder's device.
        """
        frames = self._valid_frames(start, stop) if self._valid else self._same_frames(start, stop)
        transformer = self.encoder.transformer
        frames = transformer.custom_src_module(frames.flatten(2))
        positions = transformer.positional_encoding
        return frames + positions_between(positions, start, stop, frames)

    def _same_frames(self, start, stop):
        """What "same" convolutions make of the features around some frames."""
        first = max(0, start - self._frame_context)
        last = min(self.num_frames, stop + self._frame_context)
        feats = self._normalise(self._limited(*self._span(first, last)))
        frames = self._front_end(pad_to_multiple(feats, self.encoder.stride))
        return frames[:, start - first : stop - first]

    def _valid_frames(self, start, stop):
        """What "valid" convolutions make of the features that some frames are made of."""
        stride, window = self.encoder.stride, self.encoder.front_end.window
        feats = self._limited(start * stride, (stop - 1) * stride + window)
        return self._front_end(self._normalise(feats))

    def _front_end(self, feats):
        num_features = torch.tensor([feats.shape[1]], device=feats.device)
        return self.encoder.embed(feats, num_features)

    def _span(self, start, stop):
        """The features that begin with some frames: those of all frames are all features."""
        stride, at_end = self.encoder.stride, stop >= self.num_frames
        return start * stride, self._num_features if at_end else stop * stride

    def _limited(self, start, stop):
        """Some features, limited as in the whole file."""
        floor = self._floor[:, start:stop] if self._running else self._floor
        return self._features(start, stop).clamp(min=floor)

    def _features(self, start, stop):
        """Some features, limited by no more than their own maximum: (1, stop - start, num_mels)."""
        first = max(0, start - self._feature_context)
        end = min(self.reader.num_samples, (stop - 1 + self._feature_context) * self._hop)
        wav = self.reader.read(first * self._hop, end).to(self.encoder.device)
        with torch.autocast(wav.device.type, enabled=False):
            compute = self.encoder.features.compute_features
            wav = wav.unsqueeze(0)
            feats = unlimited(compute, wav) if self._running else compute(wav)
        return feats[:, start - first : stop - first]

    def _normalise(self, feats):
        features = self.encoder.features
        if self._statistics is None:
            return features.normalise(feats, None)
        mean, std = self._statistics
        return (feats - mean) / std.clamp(min=features.normalize.epsilon)

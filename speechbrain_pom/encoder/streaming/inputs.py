"""From samples to the input of an encoder's first layer, chunk by chunk, as in the whole file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from speechbrain_pom.attention.positions import (
    ExtendedSinePositions,
    NoPositions,
    positions_between,
    positions_from,
)
from speechbrain_pom.attention.streaming import obstacle_to_steps
from speechbrain_pom.encoder.filter_banks import limited_so_far, unlimited
from speechbrain_pom.encoder.front_ends import ValidConvolutions
from speechbrain_pom.encoder.lengths import pad_to_multiple
from speechbrain_pom.encoder.streaming.geometry import convolutions_of, geometry_of
from speechbrain_pom.encoder.windows.inputs import obstacle_to_front_end

if TYPE_CHECKING:  # the encoder stands on this module
    from speechbrain_pom.encoder.encoder import SpeechEncoder

# Of TransformerASR.attention_type: nothing is added to the encoder's input then.
_NOTHING_ADDED = ("RelPosMHAXL", "RoPEMHA")


def obstacle_to_stream(
    encoder: SpeechEncoder, left_context_chunks: int | None = None
) -> str | None:
    """Why an encoder cannot encode a stream; None if it can.

    Arguments
    ---------
    encoder : SpeechEncoder
    left_context_chunks : int, optional
        Chunks that a frame sees to the left of its own; None: all.

    Returns
    -------
    str or None
        One line.
    """
    transformer, front_end = encoder.transformer, encoder.front_end
    reason = obstacle_to_steps(transformer.encoder, left_context_chunks)
    reason = reason or obstacle_to_front_end(encoder)
    if reason:
        return reason
    if encoder.features.norm_type == "sentence":
        return "its features are normalised by the whole utterance: train with norm_type: global"
    if not isinstance(front_end, ValidConvolutions):
        paddings = {conv.padding for conv in convolutions_of(front_end)}
        if paddings != {"same"}:
            return f"its front end pads by {', '.join(sorted(paddings))}: choose padding: same"
    if transformer.attention_type not in _NOTHING_ADDED:
        positions = getattr(transformer, "positional_encoding", None)
        if type(positions) not in (NoPositions, ExtendedSinePositions):
            return "its positions are not sines at its input"
    return None


class InputState(NamedTuple):
    """What the features and the front end need of the past, for streams in one batch.

    Arguments
    ---------
    features : torch.Tensor
        (B, n, num_mels): the last feature frames, normalised.
    peak : torch.Tensor
        (B, 1, 1): the loudest value so far, in decibels.
    """

    features: Tensor
    peak: Tensor


class StreamInputs:
    """The input of an encoder's first layer.

    Arguments
    ---------
    encoder : SpeechEncoder
        Without an `obstacle_to_stream`.
    """

    def __init__(self, encoder: SpeechEncoder) -> None:
        self.encoder = encoder
        self.geometry = geometry_of(encoder)

    def first_samples(self) -> Tensor:
        """What stands before the first sample of a file: (n_fft / 2,) zeros."""
        return torch.zeros(self.geometry.n_fft // 2)

    def first_state(self, batch_size: int) -> InputState:
        """The state before the first chunk."""
        compute_features, device = self.encoder.features.compute_features, self.encoder.device
        features = torch.zeros(batch_size, 0, compute_features.compute_fbanks.n_mels, device=device)
        return InputState(features, features.new_full((batch_size, 1, 1), -torch.inf))

    def frames(
        self, samples: Tensor, state: InputState, done: int, num_frames: int
    ) -> tuple[Tensor, InputState]:
        """The front end's frames that come after the first `done` ones.

        Where its convolutions reach beyond the samples, they reflect the end, as in a whole file:
        only frames that are not wanted do, but at the end of a stream.

        Arguments
        ---------
        samples : torch.Tensor
            (B, n) fp32, from `geometry.first_sample(done)` on: to where these frames are complete,
            or at the end of a file with its zeros.
        state : InputState
            Never changed in place.
        done, num_frames : int
            Frames before, and frames that are wanted.

        Returns
        -------
        frames : torch.Tensor
            (B, num_frames, ...)
        state : InputState
            For the frames after these.
        """
        encoder, geometry = self.encoder, self.geometry
        compute_features = encoder.features.compute_features
        feats = unlimited(compute_features, samples.to(encoder.device), centred=False)
        feats, peak = limited_so_far(feats, compute_features.compute_fbanks.top_db, state.peak)
        with torch.autocast(feats.device.type, enabled=False):
            feats = encoder.features.normalise(feats, None)
        feats = torch.cat([state.features, feats], dim=1)
        start = geometry.first_feature(done)
        kept = feats[:, geometry.first_feature(done + num_frames) - start :].clone()
        feats = pad_to_multiple(feats, encoder.features.multiple)  # zeros, as in a whole file
        counts = torch.full(feats.shape[:1], feats.shape[1], device=feats.device)
        frames = encoder.embed(feats, counts)
        first = done - start // geometry.stride
        return frames[:, first : first + num_frames], InputState(kept, peak)

    def embed(self, frames: Tensor, starts: Sequence[int] | Tensor) -> Tensor:
        """The projection of frames (B, C, ...), plus positions of frames from `starts` (B) on."""
        transformer = self.encoder.transformer
        frames = transformer.custom_src_module(frames.flatten(2))
        if transformer.attention_type in _NOTHING_ADDED:
            return frames
        source, size = transformer.positional_encoding, frames.shape[1]
        if isinstance(starts, Tensor):
            return frames + positions_from(source, starts, frames)
        rows = [positions_between(source, start, start + size, frames) for start in starts]
        return frames + torch.cat(rows)

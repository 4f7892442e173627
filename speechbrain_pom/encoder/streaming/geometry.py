"""Which samples and feature frames a chunk of frames is made of, and seconds in frames."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from speechbrain.lobes.models import convolution
from speechbrain.nnet.CNN import Conv1d, Conv2d
from torch import nn

from speechbrain_pom.attention.parts import inside
from speechbrain_pom.encoder.front_ends import ValidConvolutions
from speechbrain_pom.ops import ChunkMask
from speechbrain_pom.utils.errors import UserError

if TYPE_CHECKING:  # the encoder stands on this module
    from speechbrain_pom.encoder.encoder import SpeechEncoder

DEFAULT_CHUNK_S = 0.64


class Geometry(NamedTuple):
    """How samples become feature frames, and these frames of the encoder.

    Feature t is made of samples hop * t - n_fft / 2 to hop * t + n_fft / 2 - 1, frame k of features
    stride * k - before to stride * k + after.

    Arguments
    ---------
    hop, n_fft : int
        In samples.
    stride, before, after : int
        In feature frames.
    """

    hop: int
    n_fft: int
    stride: int
    before: int
    after: int

    @property
    def context(self) -> int:
        """Frames before a part with which the front end is run, and which are then dropped."""
        return -(-self.before // self.stride)

    def num_features(self, num_frames: int) -> int:
        """The feature frames that the first frames of a stream are made of."""
        return self.stride * (num_frames - 1) + self.after + 1 if num_frames else 0

    def num_samples(self, num_frames: int) -> int:
        """The samples that the first frames of a stream are made of."""
        return self.hop * (self.num_features(num_frames) - 1) + self.n_fft // 2

    def first_sample(self, num_frames: int) -> int:
        """Where the features begin that come after those of the first frames; it may be < 0."""
        return self.hop * self.num_features(num_frames) - self.n_fft // 2

    def first_feature(self, num_frames: int) -> int:
        """Where the features begin that the front end needs for the frames after the first ones."""
        return self.stride * max(0, num_frames - self.context)


def geometry_of(encoder: SpeechEncoder) -> Geometry:
    """The `Geometry` of an encoder without an `obstacle_to_stream`."""
    stft = encoder.features.compute_features.compute_STFT
    if isinstance(encoder.front_end, ValidConvolutions):
        before, after = 0, encoder.front_end.window - 1
    else:
        before, after = _reach_of_same_convolutions(encoder.front_end)
    return Geometry(stft.hop_length, stft.n_fft, encoder.stride, before, after)


def _reach_of_same_convolutions(front_end):
    """Feature frames that a frame sees before and after that with its own number times stride."""
    before, after, stride = 0, 0, 1
    for conv in convolutions_of(front_end):
        kernel, step, dilation = (
            size[-1] if isinstance(size, (list, tuple)) else size
            for size in (conv.kernel_size, conv.stride, conv.dilation)
        )
        span = dilation * (kernel - 1)
        left = kernel // 2 if step > 1 else span // 2  # as SpeechBrain's get_padding_elem
        before, after = before + left * stride, after + (span - left) * stride
        stride *= step
    return before, after


def convolutions_of(front_end: nn.Module) -> list[nn.Module]:
    """The convolutions of SpeechBrain's `ConvolutionFrontEnd` on its way from input to output."""
    own = inside(front_end, convolution.ConvolutionFrontEnd)
    blocks = [inside(child, convolution.ConvBlock) for child in own.children()]
    found = [inside(part, (Conv1d, Conv2d)) for block in blocks for part in block.convs.children()]
    return [conv for conv in found if conv is not None]


class Chunks(NamedTuple):
    """The chunks of a stream.

    Arguments
    ---------
    size : int
        C, frames of a chunk.
    left : int or None
        Chunks that a frame sees to the left of its own; None: all.
    half_life : float, optional
        In chunks: of what the mixers' sums hold of earlier chunks.
    """

    size: int
    left: int | None
    half_life: float | None = None

    @property
    def mask(self) -> ChunkMask:
        """What the mixers see in the masked full pass."""
        return ChunkMask(self.size, self.left, self.half_life)


def chunks_of(
    encoder: SpeechEncoder,
    chunk_s: float,
    left_s: float | None,
    half_life_s: float | None = None,
) -> Chunks:
    """Seconds as whole frames and whole chunks; the half-life need not be whole.

    Raises
    ------
    UserError
        If they are not, or a half-life is given besides a limited left context.
    """
    frame_s = encoder.samples_per_frame / encoder.sample_rate
    size = _whole(chunk_s, frame_s)
    if not size:
        raise UserError(f"chunk_s is {chunk_s}: give a multiple of {frame_s:g} s, which is a frame")
    left = None if left_s is None else _whole(left_s, size * frame_s)
    if left is None and left_s is not None:
        raise UserError(
            f"left_s is {left_s}: give whole chunks, a multiple of chunk_s = {chunk_s:g}, or None "
            "for all of the past"
        )
    return Chunks(size, left, _half_life_of(half_life_s, left_s, size * frame_s))


def _half_life_of(half_life_s, left_s, chunk_s):
    if half_life_s is None:
        return None
    is_number = isinstance(half_life_s, (int, float)) and not isinstance(half_life_s, bool)
    if not (is_number and 0 < half_life_s < math.inf):
        raise UserError(f"half_life_s is {half_life_s!r}: give seconds, more than 0")
    if left_s is not None:
        raise UserError(
            f"half_life_s is {half_life_s:g} and left_s {left_s:g}: both limit the past, give one "
            "of them"
        )
    return half_life_s / chunk_s


def _whole(seconds, unit_s):
    """How many units there are in some seconds; None where it is not a whole number."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    count = seconds / unit_s
    if not (math.isfinite(count) and count >= 0 and abs(count - round(count)) < 1e-6):
        return None
    return round(count)

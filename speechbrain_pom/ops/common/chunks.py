"""What frames see of their own chunk and of those before it, in a few numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from speechbrain_pom.utils.errors import UserError


@dataclass(frozen=True, repr=False)
class ChunkMask:
    """Each frame sees its own chunk and a number of whole chunks to the left.

    A causal mask is `ChunkMask(1)`. The meaning is that of SpeechBrain's
    `DynChunkTrainConfig` and `make_transformer_src_mask`, without the (T, T) tensor.

    Arguments
    ---------
    chunk_size : int
        Frames per chunk, at least 1.
    left_context_chunks : int, optional
        Chunks visible to the left of a frame's own chunk; None: all of them.
    half_life_chunks : float, optional
        Earlier chunks count 0.5 ** (distance / half_life_chunks), a frame's own chunk whole: for
        mixers of sums only, and with all of the past.
    resets : sequence of sequences of int, optional
        For each utterance, the chunks that see nothing before them, nor do those that follow: for
        mixers of sums only.

    Raises
    ------
    UserError
        If a number is out of range, or a half-life is given besides a limited left context.

    Example
    -------
    >>> ChunkMask(2, left_context_chunks=1).to_bool(5).int()
    tensor([[0, 0, 1, 1, 1],
            [0, 0, 1, 1, 1],
            [0, 0, 0, 0, 1],
            [0, 0, 0, 0, 1],
            [1, 1, 0, 0, 0]], dtype=torch.int32)
    >>> ChunkMask(1, half_life_chunks=2, resets=[[2]]).to_weights(4)[0]
    tensor([[1.0000, 0.0000, 0.0000, 0.0000],
            [0.7071, 1.0000, 0.0000, 0.0000],
            [0.0000, 0.0000, 1.0000, 0.0000],
            [0.0000, 0.0000, 0.7071, 1.0000]], dtype=torch.float64)
    """

    chunk_size: int
    left_context_chunks: int | None = None
    half_life_chunks: float | None = None
    resets: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        if self.chunk_size < 1:
            raise UserError(f"chunk_size is {self.chunk_size}: it must be at least 1 frame")
        if self.left_context_chunks is not None and self.left_context_chunks < 0:
            raise UserError(
                f"left_context_chunks is {self.left_context_chunks}: give 0 or more chunks, "
                "or None to see the whole past"
            )
        if self.half_life_chunks is not None:
            self._check_half_life()
        if self.resets is not None:
            object.__setattr__(self, "resets", _checked_resets(self.resets))

    def _check_half_life(self):
        chunks = self.half_life_chunks
        is_number = isinstance(chunks, (int, float)) and not isinstance(chunks, bool)
        if not (is_number and 0 < chunks < math.inf):
            raise UserError(f"half_life_chunks is {chunks!r}: give chunks, more than 0")
        if self.left_context_chunks is not None:
            raise UserError(
                f"half_life_chunks is {chunks:g} and left_context_chunks "
                f"{self.left_context_chunks}: both limit the past, give one of them"
            )

    def __repr__(self) -> str:
        parts = [f"chunk_size={self.chunk_size}, left_context_chunks={self.left_context_chunks}"]
        if self.half_life_chunks is not None:
            parts.append(f"half_life_chunks={self.half_life_chunks:g}")
        if self.resets is not None:
            parts.append(f"resets={self.resets}")
        return f"ChunkMask({', '.join(parts)})"

    @property
    def has_weights(self) -> bool:
        """Whether it is more than a mask that all utterances share: a half-life, or resets."""
        return self.half_life_chunks is not None or self.resets is not None

    @property
    def decay(self) -> float:
        """The factor of earlier sums from one chunk to the next."""
        return 1.0 if self.half_life_chunks is None else decay_of(self.half_life_chunks)

    def num_chunks(self, num_frames: int) -> int:
        """Number of chunks of a sequence, the last of which may be partial."""
        return -(-num_frames // self.chunk_size)

    def to_bool(self, num_frames: int, device: torch.device | None = None) -> Tensor:
        """The same mask as SpeechBrain's boolean tensor.

        Arguments
        ---------
        num_frames : int
            T.
        device : torch.device, optional
            Where to build it.

        Returns
        -------
        torch.Tensor
            (T, T), True = may not be seen.

        Raises
        ------
        UserError
            With a half-life or resets, which no such tensor tells.
        """
        if self.has_weights:
            raise UserError(f"{self} has weights: no boolean tensor is equal to it")
        return self._hidden(num_frames, device)

    def _hidden(self, num_frames, device):
        chunk = torch.arange(num_frames, device=device) // self.chunk_size
        distance = chunk[:, None] - chunk[None, :]
        hidden = distance < 0
        if self.left_context_chunks is not None:
            hidden |= distance > self.left_context_chunks
        return hidden

    def starts(self, num_chunks: int, device: torch.device | None = None) -> Tensor | None:
        """Which chunks see nothing before them, nor do those that follow.

        Arguments
        ---------
        num_chunks : int
            C.
        device : torch.device, optional
            Where to build it.

        Returns
        -------
        torch.Tensor or None
            (B, C, 1) boolean; None where there are no resets.

        Example
        -------
        >>> ChunkMask(4, resets=[[2], [], [1, 9]]).starts(3).squeeze(-1).int()
        tensor([[0, 0, 1],
                [0, 0, 0],
                [0, 1, 0]], dtype=torch.int32)
        """
        if self.resets is None:
            return None
        starts = torch.zeros(len(self.resets), num_chunks, 1, dtype=torch.bool)
        for row, chunks in enumerate(self.resets):
            starts[row, [chunk for chunk in chunks if chunk < num_chunks]] = True
        return starts.to(device)

    def to_weights(self, num_frames: int, device: torch.device | None = None) -> Tensor:
        """How much each frame counts for each other, from 0 (hidden) to 1.

        Arguments
        ---------
        num_frames : int
            T.
        device : torch.device, optional
            Where to build it.

        Returns
        -------
        torch.Tensor
            (B, T, T) float64, with B = 1 where there are no resets.
        """
        chunk = torch.arange(num_frames, device=device) // self.chunk_size
        distance = (chunk[:, None] - chunk[None, :]).clamp(min=0).double()
        weights = (~self._hidden(num_frames, device)) * self.decay**distance
        starts = self.starts(self.num_chunks(num_frames), device)
        if starts is None:
            return weights.unsqueeze(0)
        segment = starts.squeeze(-1).cumsum(1)[:, chunk]  # (B, T)
        return weights * (segment[:, :, None] == segment[:, None, :])


def decay_of(half_life_chunks: float) -> float:
    """What is left of a sum after a chunk.

    >>> decay_of(1.0), decay_of(2.0) ** 2
    (0.5, 0.5000000000000001)
    """
    return 0.5 ** (1 / half_life_chunks)


def _checked_resets(resets):
    try:
        rows = tuple(tuple(row) for row in resets)
    except TypeError:
        rows = None
    if rows is None or not all(
        isinstance(chunk, int) and not isinstance(chunk, bool) and chunk >= 0
        for row in rows
        for chunk in row
    ):
        raise UserError(
            f"resets is {resets!r}: give the numbers of chunks, from 0 on, for each utterance, "
            "such as [[3, 9], []]"
        )
    return rows

"""Training with dynamic chunks: which chunks each batch of a run is encoded with.

A model that is to stream has to be trained as it streams, by SpeechBrain's dynamic chunk training:
most batches are cut into chunks of a random size, whose frames see no later chunk and perhaps only
some earlier ones; the others are whole. One model then serves all chunk sizes and the full context.
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Mapping, Sequence

import torch

from speechbrain_pom.ops import ChunkMask
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.seeding import philox, uniform

# (frames in a chunk, chunks to the left of a frame's own; None: all); None: the full context.
Chunks = tuple[int, int | None] | None
OPTIONS = (
    "chunkwise_prob",
    "chunk_size_range",
    "limited_left_context_prob",
    "left_context_range",
    "valid_chunk",
    "test_chunks",
)
_LABEL = re.compile(r"chunk(\d+)(?:_left(\d+))?")


class ChunkSampler:
    """The chunks of each batch of training, of the validation and of the tests.

    They are drawn as SpeechBrain's `DynChunkTrainConfigRandomSampler` draws them, but as a function
    of where the run is: a resumed run has the chunks of one that was never stopped.

    Arguments
    ---------
    chunkwise_prob : float
        Probability that a batch of training has chunks; 0: it never has.
    chunk_size_range : tuple of int
        The smallest and the largest chunk, in frames of the encoder.
    limited_left_context_prob : float
        Probability that the frames of a batch with chunks see only some of the earlier chunks.
    left_context_range : tuple of int
        The fewest and the most of these.
    valid_chunk : tuple of (int, int or None), optional
        Frames of a chunk, and chunks to its left (None: all), in the validation; None: it has the
        full context.
    test_chunks : sequence
        As `valid_chunk`: each test is done with each of these.

    Raises
    ------
    UserError
        For values that cannot be.

    Example
    -------
    >>> sampler = ChunkSampler(chunkwise_prob=0.5, chunk_size_range=(8, 10))
    >>> [sampler.draw(seed=1000, epoch=1, step=step) for step in (1, 2, 3)]
    [(8, 18), (9, 4), (8, None)]
    """

    def __init__(
        self,
        chunkwise_prob: float = 0.6,
        chunk_size_range: Sequence[int] = (8, 32),
        limited_left_context_prob: float = 0.75,
        left_context_range: Sequence[int] = (2, 32),
        valid_chunk: Chunks = None,
        test_chunks: Sequence[Chunks] = (None, (32, None), (16, None), (8, None)),
    ) -> None:
        self.chunkwise_prob = _probability("chunkwise_prob", chunkwise_prob)
        self.limited_prob = _probability("limited_left_context_prob", limited_left_context_prob)
        self.sizes = _range("chunk_size_range", chunk_size_range, 1)
        self.lefts = _range("left_context_range", left_context_range, 0)
        self.valid = checked_chunk("valid_chunk", valid_chunk)
        if not isinstance(test_chunks, (list, tuple)) or not test_chunks:
            raise UserError(
                f"test_chunks is {test_chunks!r}: give a list, such as [null, [16, null], [16, 4]]"
            )
        self.tests = tuple(checked_chunk("test_chunks", one) for one in test_chunks)
        if len(set(self.tests)) < len(self.tests):
            raise UserError(f"test_chunks is {list(test_chunks)}: one of them is given twice")

    @classmethod
    def of_run(cls, options: Mapping, modules: torch.nn.Module) -> ChunkSampler:
        """What the options of a run ask for, if its modules can be trained so.

        Without `streaming: True` nothing has chunks.

        Raises
        ------
        UserError
            For options that cannot be, and encoders that cannot stream.
        """
        streaming = options.get("streaming", False)
        if not isinstance(streaming, bool):
            raise UserError(f"streaming is {streaming!r}: give True or False")
        if not streaming:
            return cls(chunkwise_prob=0.0, test_chunks=(None,))
        sampler = cls(**{key: options[key] for key in OPTIONS if key in options})
        for module in modules.modules():
            if hasattr(module, "obstacle_to_chunks"):
                sampler.check(module)
        return sampler

    def check(self, encoder: torch.nn.Module) -> None:
        """Refuse a `SpeechEncoder` that cannot be trained with these chunks.

        Raises
        ------
        UserError
            With the reason in one line.
        """
        obstacle = encoder.obstacle_to_chunks(None)
        if obstacle:
            raise UserError(f"streaming: {obstacle}")
        given = [chunks[1] for chunks in (self.valid, *self.tests) if chunks is not None]
        if self.chunkwise_prob > 0 and self.limited_prob > 0:
            given.append(self.lefts[0])
        obstacles = (encoder.obstacle_to_chunks(left) for left in given if left is not None)
        obstacle = next(filter(None, obstacles), None)
        if obstacle:
            raise UserError(
                f"streaming: {obstacle} (limited_left_context_prob: 0, and null in valid_chunk and "
                "test_chunks)"
            )

    def draw(self, seed: int, epoch: int, step: int, rank: int = 0) -> Chunks:
        """The chunks of a batch of training: a function of seed, epoch, step and process.

        Arguments
        ---------
        seed : int
            Seed of the run.
        epoch, step : int
            From 1; the step is the batch within the epoch.
        rank : int
            Of the process.

        Returns
        -------
        tuple of (int, int or None) or None
            Frames of a chunk, and chunks to its left (None: all); None: the full context.
        """
        if self.chunkwise_prob == 0:
            return None
        bits = philox("chunks", seed, epoch, step, rank)
        has_chunks, size, is_limited, left = uniform(bits, 4).tolist()
        if has_chunks >= self.chunkwise_prob:
            return None
        if is_limited >= self.limited_prob:
            return _within(self.sizes, size), None
        return _within(self.sizes, size), _within(self.lefts, left)


def checked_chunk(name: str, chunk: object) -> Chunks:
    """Chunks as a key of a YAML gives them: null, or [frames of a chunk, chunks to its left].

    >>> checked_chunk("valid_chunk", [16, None])
    (16, None)
    """
    if chunk is None:
        return None
    numbers_only = isinstance(chunk, (list, tuple)) and len(chunk) == 2 and _is_whole(chunk[0])
    if not numbers_only or not (chunk[1] is None or _is_whole(chunk[1])):
        raise UserError(
            f"{name} has {chunk!r}: give null (the full context), or the frames of a chunk and the "
            "chunks to its left, such as [16, 4], or [16, null] for all of them"
        )
    mask = ChunkMask(int(chunk[0]), None if chunk[1] is None else int(chunk[1]))
    return mask.chunk_size, mask.left_context_chunks


def chunk_label(chunks: Chunks) -> str:
    """The name of chunks among results and in names of files; empty for the full context.

    >>> chunk_label((16, None)), chunk_label((8, 2))
    ('chunk16', 'chunk8_left2')
    """
    if chunks is None:
        return ""
    size, left = chunks
    return f"chunk{size}" if left is None else f"chunk{size}_left{left}"


def describe_chunks(chunks: Chunks, frame_s: float) -> dict[str, float | int | None]:
    """What results of a test with chunks have besides: nothing for the full context.

    >>> describe_chunks((16, 4), frame_s=0.04)
    {'chunk_frames': 16, 'left_chunks': 4, 'chunk_s': 0.64}
    """
    if chunks is None:
        return {}
    size, left = chunks
    return {"chunk_frames": size, "left_chunks": left, "chunk_s": round(size * frame_s, 6)}


def read_chunk_label(label: str) -> Chunks:
    """The chunks that `chunk_label` has named; None for another text.

    >>> read_chunk_label("chunk8_left2"), read_chunk_label("no_lm")
    ((8, 2), None)
    """
    found = _LABEL.fullmatch(label)
    return found and (int(found[1]), None if found[2] is None else int(found[2]))


def _is_whole(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _probability(name, value):
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value <= 1:
        raise UserError(f"{name} is {value!r}: give a probability from 0 to 1")
    return float(value)


def _range(name, value, least):
    pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_whole, value))
    if not pair or not least <= value[0] <= value[1]:
        raise UserError(
            f"{name} is {value!r}: give the smallest and the largest, whole numbers of at least "
            f"{least}, such as [8, 32]"
        )
    return int(value[0]), int(value[1])


def _within(ends, share):
    """A whole number from one end to the other, both included, for a share from 0 to below 1."""
    return ends[0] + int(share * (ends[1] - ends[0] + 1))

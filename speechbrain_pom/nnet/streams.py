"""The part of a token mixer's contract that is about streams: chunk by chunk, in constant state."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from speechbrain_pom.ops.common.chunks import ChunkMask
from speechbrain_pom.ops.common.running_sums import first_sums
from speechbrain_pom.utils.errors import UserError


class StreamSteps(nn.Module):
    """`first_state` and `step` of a `TokenMixer`.

    A mixer with one pass whose `summarise` returns `TimeSums` needs nothing but `summary_size`.
    Others implement all three methods, or say in `obstacle_to_steps` why they cannot.

    Attributes
    ----------
    summary_size : int
        E, the width of the sums that `summarise` returns; 0: the mixer has no steps by sums.

    Example
    -------
    >>> import torch
    >>> from speechbrain_pom.nnet import SummaryMixing
    >>> from speechbrain_pom.ops import ChunkMask
    >>> mixer, frames = SummaryMixing(d_model=8, nhead=2).eval(), torch.randn(1, 50, 8)
    >>> state, outputs = mixer.first_state(batch_size=1), []
    >>> for chunk in frames.split(16, dim=1):
    ...     output, state = mixer.step(chunk, state)
    ...     outputs.append(output)
    >>> masked, _ = mixer(frames, attn_mask=ChunkMask(16))
    >>> torch.allclose(torch.cat(outputs, dim=1), masked, atol=1e-5)
    True
    """

    summary_size = 0

    # Given by TokenMixer.
    summarise: Callable[..., Any]
    mix: Callable[..., Tensor]

    def obstacle_to_steps(self, left_context_chunks: int | None = None) -> str | None:
        """Why the mixer cannot mix a stream step by step.

        Arguments
        ---------
        left_context_chunks : int, optional
            Chunks that a frame sees to the left of its own; None: all.

        Returns
        -------
        str or None
            One line; None: it can.
        """
        if self.summary_size:
            return None
        return f"{self._name} cannot mix a stream step by step"

    def first_state(
        self,
        batch_size: int,
        left_context_chunks: int | None = None,
        half_life_chunks: float | None = None,
    ) -> Any:
        """The state of streams before their first chunk.

        Arguments
        ---------
        batch_size : int
            B, streams.
        left_context_chunks : int, optional
            Whole chunks that a frame sees to the left of its own; None: all.
        half_life_chunks : float, optional
            Of the sums: as for `ChunkMask`. Mixers without sums need not take it.

        Returns
        -------
        NamedTuple of torch.Tensor
            Batch first. Its shapes and dtypes are those of every later state. One of sums begins
            anew by `emptied()`.

        Raises
        ------
        UserError
            If the mixer cannot stream so, in one line that says why.
        """
        mask = ChunkMask(1, left_context_chunks, half_life_chunks)  # refuses what cannot be
        self._check_steps(left_context_chunks)
        size = self.summary_size
        return first_sums(
            batch_size, size, left_context_chunks, self._device(), mask.half_life_chunks
        )

    def step(self, frames: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Mix the next chunk of a stream.

        Arguments
        ---------
        frames : torch.Tensor
            (B, T, d_model).
        state : NamedTuple of torch.Tensor, optional
            From `first_state` or the step before, never changed in place; None: a first state with
            unlimited left context.

        Returns
        -------
        output : torch.Tensor
            (B, T, d_model), as `forward` returns it in eval mode for these frames with
            `ChunkMask(T, left_context_chunks, half_life_chunks)`, when every step but the last has
            T frames.
        state : NamedTuple of torch.Tensor
            For the next step, of the same size.

        Raises
        ------
        UserError
            If the mixer cannot stream (a NotImplementedError too), or the state is of another
            number of streams.
        """
        self._check_steps(None)
        state = self._state_for(frames, state)
        visible, state = state.add(self.summarise(frames))
        return self.mix(frames, visible), state

    def _state_for(self, frames, state):
        """The state itself, or a first one; it has to be of as many streams as the frames."""
        if state is None:
            return self.first_state(frames.shape[0])
        if state[0].shape[0] != frames.shape[0]:
            raise UserError(
                f"{self._name}: the state is of {len(state[0])} streams and the frames are of "
                f"{len(frames)}: give each stream its own state"
            )
        return state

    def _check_steps(self, left_context_chunks):
        obstacle = self.obstacle_to_steps(left_context_chunks)
        if obstacle is not None:
            raise StepsError(obstacle)

    def _device(self):
        return next((parameter.device for parameter in self.parameters()), None)


class StepsError(UserError, NotImplementedError):
    """A mixer cannot mix a stream step by step; the message says why."""

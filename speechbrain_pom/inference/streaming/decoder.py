"""From outputs that arrive to events: partial texts, and segments at pauses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from speechbrain_pom.ctc.tokenizers import Units
from speechbrain_pom.inference.segments import Clock, decode_segment
from speechbrain_pom.inference.streaming.events import Event, Final, Partial
from speechbrain_pom.inference.streaming.options import OPTIONS, Lengths
from speechbrain_pom.inference.streaming.pauses import PauseFinder
from speechbrain_pom.inference.streaming.texts import open_text
from speechbrain_pom.utils.errors import UserError

_NONE = -1  # in place of a frame or a label


class EventDecoder:
    """Segments as `transcribe` cuts them, told as soon as they are certain.

    A segment ends at a pause by the rule of `split_at_pauses`, which needs the next label to know
    how long the pause is and whether a word has ended. Its final comes before: after `pause_frames`
    blanks where the last label is a space, after twice as many in any case.

    Arguments
    ---------
    units : Units
    clock : Clock
        Of a stream of no duration.
    pause_frames, max_frames : int
        As for `split_at_pauses`.
    decode : callable, optional
        As for `transcribe`; None: greedy.
    commit_frames : int, optional
        As for `BeamText`; only with a beam search.
    resets : bool
        Whether the mixers' sums shall begin anew at pauses.

    Attributes
    ----------
    wants_reset : bool
        Whether they shall with the next chunk: a pause has ended a segment in the last one.

    Example
    -------
    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> decoder = EventDecoder(CharacterUnits(), Clock(0.04, 0.005, 0.0), 2, 100)
    >>> def outputs(labels):
    ...     return (9.0 * torch.nn.functional.one_hot(torch.tensor(labels), 29)).log_softmax(-1)
    >>> for labels in ([9, 10, 1], [2, 0, 0], [0, 0, 0]):
    ...     for event in decoder.add(outputs(labels), duration_s=1.0):
    ...         print(type(event).__name__, event.text)
    Partial HI
    Partial HI A
    Final HI A
    """

    def __init__(
        self,
        units: Units,
        clock: Clock,
        pause_frames: int,
        max_frames: int,
        decode: Callable[[Tensor, Tensor], list[str]] | None = None,
        commit_frames: int | None = None,
        resets: bool = False,
    ) -> None:
        self.units, self.clock, self.decode = units, clock, decode
        self.commit_frames, self.resets = commit_frames, resets
        self.wants_reset = False
        self.finder = PauseFinder(units, pause_frames, max_frames)
        self._kept = torch.empty(0, units.size)  # outputs from `_first_kept` on
        self._first_kept = 0
        self._start = 0  # of the open segment
        self._told: int | None = None  # what begins before this frame is in a final already
        self._number = 0
        self._last = ("", "")  # what the last partial said
        self._open(())

    def add(self, log_probs: Tensor, duration_s: float) -> list[Event]:
        """Take the outputs of a chunk.

        Arguments
        ---------
        log_probs : torch.Tensor
            (n, num_outputs)
        duration_s : float
            Of the stream, up to now.

        Returns
        -------
        list of Partial or Final

        Raises
        ------
        UserError
            If the outputs are NaN.
        """
        log_probs = log_probs.detach().float().cpu()
        if log_probs.isnan().any():
            raise UserError("the outputs to decode are NaN: the model has diverged")
        self.clock = self.clock.lasting(duration_s)
        self._kept = torch.cat([self._kept, log_probs])
        self.wants_reset = False
        events = self._close_at(self.finder.add(log_probs.argmax(-1).tolist()))
        events += self._after_pause() if self._is_over() else self._partial()
        self._forget_silence()
        return events

    def finish(self, duration_s: float) -> list[Event]:
        """End the open segment with the stream."""
        self.clock = self.clock.lasting(duration_s)
        return self._close_at([*self.finder.finish(), self.finder.num_frames])

    def _close_at(self, cuts):
        """The finals of segments that end at some frames."""
        events = []
        for cut in cuts:
            told = self._told is not None and self._start < self._told
            rest: Sequence[str] = ()
            if not told and self._start >= self._first_kept:
                final, rest = self._final(cut)
                events += final
                self._ended(final, cut in self.finder.at_pauses)
            self._start = cut
            if self._told is not None and cut >= self._told:
                self._told = None
            self._drop(cut)
            self._open(rest)
        return events

    def _open(self, committed):
        """The text of a segment that begins at `_start`."""
        self._text = self._new_text(committed)
        self._fed = self._start

    def _new_text(self, committed):
        return open_text(self.units, self.decode, committed, self.commit_frames)

    def _final(self, stop):
        """The open segment up to a frame, and words that were told and come after it."""
        text, words = self._text, self._text.committed
        is_forced = self._fed > stop
        if is_forced:  # the cut was certain only when more had come
            text, self._fed = self._new_text(words), self._start
        text.feed(self._outputs(self._fed, stop))
        said = text.finish(may_be_shorter=is_forced)
        rest = words[len(said.split()) :] if is_forced else []
        outputs = self._outputs(self._start, stop)
        found = said and decode_segment(
            outputs, self._start, lambda *_: [said], self.units, self.clock
        )
        if not found:
            return [], rest
        final = Final(**vars(found), segment=self._number)
        self._number, self._last = self._number + 1, ("", "")
        return [final], rest

    def _is_over(self):
        """Whether the open segment has ended, wherever its pause will be cut."""
        finder = self.finder
        if self._told is not None or finder.is_silent:
            return False
        needed = finder.pause_frames * (1 if finder.word_has_ended else 2)
        return finder.trailing_blanks >= needed

    def _after_pause(self):
        """The final of a segment before it is known how long its last pause gets."""
        stop = self._certain()
        events, _ = self._final(stop)
        self._told = stop
        self._ended(events, by_pause=True)
        return events

    def _ended(self, events, by_pause):
        self.wants_reset |= self.resets and by_pause and bool(events)

    def _certain(self):
        """The frame up to which the open segment goes at least: a pause is cut in its middle."""
        blanks = self.finder.trailing_blanks
        return self.finder.num_frames - blanks + blanks // 2

    def _partial(self):
        if self._told is not None or self.finder.is_silent:
            return []
        stop = max(self._certain(), self._fed)
        self._text.feed(self._outputs(max(self._fed, self._first_kept), stop))
        self._fed = stop
        now = self._text.partial()
        if now == self._last or not any(now):
            return []
        self._last = now
        blank, runs = self.finder.blank, self.finder.runs
        spoken = [run for run in runs if run[0] != blank and run[2] > self._start]
        start_s = self.clock.time_of(max(spoken[0][1], self._start))
        return [Partial(self._number, *now, start_s, self.clock.time_of(spoken[-1][2]))]

    def _outputs(self, start, stop):
        return self._kept[start - self._first_kept : stop - self._first_kept]

    def _drop(self, first):
        if first > self._first_kept:
            self._kept = self._kept[first - self._first_kept :].clone()
            self._first_kept = first

    def _forget_silence(self):
        """Outputs of a long silence: the open segment begins after them."""
        if self._told is not None or self.finder.is_silent:
            self._drop(self.finder.num_frames - 2 * self.finder.max_frames)

    def state(self) -> dict[str, Tensor]:
        """What another decoder of the same options goes on from."""
        finder = self.finder
        told = _NONE if self._told is None else self._told
        before = _NONE if finder.before is None else finder.before
        places = [self._first_kept, self._start, self._fed, told, self._number]
        committed = " ".join(self._text.committed).encode()
        frames = finder.pause_frames, finder.max_frames, self.commit_frames
        return {
            OPTIONS: Lengths(*frames, self.resets).tensor(),
            "text.outputs": self._kept.clone(),
            "text.places": torch.tensor([*places, finder.start, finder.num_frames, before]),
            "text.runs": torch.tensor(finder.runs, dtype=torch.int64).view(-1, 3),
            "text.committed": torch.tensor(list(committed), dtype=torch.uint8),
        }

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from the state of another decoder.

        Arguments
        ---------
        state : dict of str to torch.Tensor
            With what `state()` returned.

        Raises
        ------
        UserError
            If it is not the state of a recognised stream.
        """
        places, outputs = state.get("text.places"), state.get("text.outputs")
        if places is None or places.shape != (8,) or outputs.shape[1:] != (self.units.size,):
            raise UserError(
                "the state is not one of a recognised stream: give what recogniser.stream().state()"
                " returned"
            )
        *own, start, num_frames, before = places.tolist()
        self._first_kept, self._start, fed, told, self._number = own
        self._told = None if told == _NONE else told
        self._kept = outputs.clone()
        finder = self.finder
        finder.start, finder.num_frames = start, num_frames
        finder.before = None if before == _NONE else before
        finder.runs = state["text.runs"].tolist()
        committed = bytes(state["text.committed"].tolist()).decode().split()
        self._open(committed)
        if self._told is None and fed > self._start:
            self._text.feed(self._outputs(max(self._start, self._first_kept), fed))
        self._fed = fed
        self._last = self._text.partial() if self._told is None else ("", "")

"""`split_at_pauses` for labels that arrive: each cut as soon as nothing later can change it."""

from collections.abc import Iterable

import numpy as np

from speechbrain_pom.ctc.tokenizers import Units
from speechbrain_pom.inference.pauses import word_marks

_BETWEEN_WORDS = 2**40  # more than any number of frames


class PauseFinder:
    """Finds the cuts of `speechbrain_pom.inference.transcription.split_at_pauses`.

    The labels since the start of the open segment are held as runs, so that hours of silence take
    as much memory as a moment of it.

    Arguments
    ---------
    units : Units
    pause_frames, max_frames : int
        As for `split_at_pauses`.

    Example
    -------
    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> finder = PauseFinder(CharacterUnits(), pause_frames=3, max_frames=100)
    >>> [finder.add(labels) for labels in ([9, 10, 1, 0], [0, 0, 0], [2, 0], [3])]
    [[], [], [5], []]
    >>> finder.finish(), finder.num_frames
    ([], 10)
    """

    def __init__(self, units: Units, pause_frames: int, max_frames: int) -> None:
        self.space, self.starts_word = word_marks(units)
        self.blank = units.blank_index
        self.pause_frames, self.max_frames = pause_frames, max_frames
        self.runs: list[list[int]] = []  # label, first frame, and the frame after the last one
        self.before: int | None = None  # the last label before these runs
        self.start = 0
        self.num_frames = 0
        self.at_pauses: set[int] = set()  # those of the last cuts that a pause made, not a length

    def add(self, labels: Iterable[int]) -> list[int]:
        """Take the best outputs of the next frames; return the cuts that are certain now."""
        for label in labels:
            if self.runs and self.runs[-1][0] == label:
                self.runs[-1][2] += 1
            else:
                self.runs.append([label, self.num_frames, self.num_frames + 1])
            self.num_frames += 1
        return self._cuts(at_end=False)

    def finish(self) -> list[int]:
        """The cuts that remain where the labels end."""
        return self._cuts(at_end=True)

    @property
    def trailing_blanks(self) -> int:
        """Blanks since the last label."""
        if not self.runs or self.runs[-1][0] != self.blank:
            return 0
        return self.runs[-1][2] - self.runs[-1][1]

    @property
    def is_silent(self) -> bool:
        """Whether there is no label yet since the start of the open segment."""
        return all(label == self.blank or stop <= self.start for label, _, stop in self.runs)

    @property
    def word_has_ended(self) -> bool:
        """Whether the last label separates words."""
        spoken = [label for label, _, _ in self.runs if label != self.blank]
        return (spoken[-1] if spoken else self.before) in self.space

    def _cuts(self, at_end):
        cuts = []
        self.at_pauses = set()
        while (cut := self._next(at_end)) is not None:
            cuts.append(cut)
            if cut == self._first_pause():
                self.at_pauses.add(cut)
            self.start = cut
            self._forget()
        return cuts

    def _forget(self):
        """Drop runs that end before the open segment, but for the last label."""
        while len(self.runs) > 1 and self.runs[0][2] < self.start:
            label = self.runs.pop(0)[0]
            self.before = self.before if label == self.blank else label

    def _next(self, at_end):
        """The next cut, or None where there is none or it is not certain yet."""
        limit = self.start + self.max_frames
        pause = self._first_pause()
        if pause is not None and pause <= limit:
            return pause
        if self.num_frames <= limit:
            return None
        label, first, _ = self.runs[-1]
        if not at_end and label == self.blank and first <= limit:
            return None  # it depends on how long this run gets, and on what comes after it
        earliest = self.start + self.max_frames // 2 + 1
        scores = self._scores(earliest, limit + 1)
        best = int(scores.argmax())
        if scores[best] >= 0:
            return earliest + best
        # One label throughout: after it, if anything comes.
        after = next((stop for _, first, stop in self.runs if first <= limit < stop), None)
        return after if after is not None and after < self.num_frames else pause

    def _around(self, place):
        """The labels before and after a run of blanks, or before a label and itself."""
        spoken = [label for label, _, _ in self.runs[:place] if label != self.blank]
        before = spoken[-1] if spoken else self.before
        later = self.runs[place:]
        after = next((label for label, _, _ in later if label != self.blank), None)
        return before, after

    def _is_between_words(self, place):
        before, after = self._around(place)
        at_edge = before is None or after is None
        return at_edge or before in self.space or after in self.starts_word

    def _first_pause(self):
        """The middle of the first pause after the start whose next label is known."""
        for place, (label, first, stop) in enumerate(self.runs[:-1]):
            middle = (first + stop) // 2
            if label != self.blank or middle <= self.start or None in self._around(place):
                continue
            if stop - first >= self.pause_frames * (2 - self._is_between_words(place)):
                return middle
        return None

    def _scores(self, low, high):
        """How good cuts before the frames low to high - 1 are; negative within a label."""
        scores = np.full(high - low, -1, dtype=np.int64)
        for place, (label, first, stop) in enumerate(self.runs):
            if stop < low or first >= high:
                continue
            rating = _BETWEEN_WORDS * self._is_between_words(place)
            if label == self.blank:
                frames = np.arange(max(first, low), min(stop + 1, high))
                depth = np.minimum(frames - first, stop - frames)
                scores[frames - low] = rating + depth
            elif low <= first:
                scores[first - low] = max(scores[first - low], rating)
        return scores

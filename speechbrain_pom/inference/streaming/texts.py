"""The text of a segment that is still open, from outputs that arrive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from speechbrain.decoders.ctc import CTCBaseSearcher, CTCBeam, filter_ctc_output
from torch import Tensor

from speechbrain_pom.ctc.tokenizers import Units
from speechbrain_pom.inference.pauses import word_marks


class OpenText(Protocol):
    """What is said in a segment, as far as its outputs have come.

    Arguments
    ---------
    committed : list of str
        Its first words, if they were told before it was known where it begins.
    """

    committed: list[str]

    def feed(self, log_probs: Tensor) -> None:
        """Take the next outputs (n, num_outputs)."""

    def partial(self) -> tuple[str, str]:
        """Words that do not change any more, and the rest."""

    def finish(self, may_be_shorter: bool = False) -> str:
        """The text of the segment; shorter than `committed` only where a cut was put into it."""


class GreedyText:
    """The best output of each frame.

    Arguments
    ---------
    units : Units

    Example
    -------
    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> text = GreedyText(CharacterUnits())
    >>> for labels in ([9, 9, 0], [10, 1, 2], [28]):
    ...     text.feed(torch.nn.functional.one_hot(torch.tensor(labels), 29))
    >>> text.partial(), text.finish()
    (('HI', "A'"), "HI A'")
    """

    def __init__(self, units: Units) -> None:
        self.units = units
        self.committed: list[str] = []
        self._starts_word = word_marks(units)[1]
        self._labels: list[int] = []

    def feed(self, log_probs: Tensor) -> None:
        """Take the next outputs (n, num_outputs)."""
        self._labels += log_probs.argmax(dim=-1).tolist()

    def partial(self) -> tuple[str, str]:
        """All words but the last, which has ended where a space follows it; and the last one."""
        labels = self._collapsed()
        marks = [place for place, label in enumerate(labels) if label in self._starts_word]
        end = marks[-1] if marks else 0
        return self.units.decode(labels[:end]), self.units.decode(labels[end:])

    def finish(self, may_be_shorter: bool = False) -> str:
        """As `greedy_decode` of all outputs."""
        return self.units.decode(self._collapsed())

    def _collapsed(self):
        return filter_ctc_output(self._labels, blank_id=self.units.blank_index)


class BeamText:
    """SpeechBrain's beam search, piece by piece: as its search over the whole segment.

    Words that all hypotheses share are stable: every later hypothesis continues one of them.

    Arguments
    ---------
    searcher : CTCBaseSearcher
        `searcher` of what `make_beam_searcher` returns.
    committed : sequence of str
        See `OpenText`.
    commit_frames : int, optional
        Finished words of the best hypothesis that ended so many frames ago are committed, whatever
        the others say, and those that disagree are dropped. It happens in the very frame: texts do
        not depend on the pieces.

    Example
    -------
    >>> from speechbrain_pom.ctc.decoding import make_beam_searcher
    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> text = BeamText(make_beam_searcher(CharacterUnits(), beam_size=8).searcher)
    >>> for labels in ([9, 9, 0], [10, 1, 2], [28]):
    ...     outputs = torch.nn.functional.one_hot(torch.tensor(labels), 29)
    ...     text.feed((9.0 * outputs).log_softmax(-1))
    >>> text.partial(), text.finish()
    (('HI', "A'"), "HI A'")
    """

    def __init__(
        self,
        searcher: CTCBaseSearcher,
        committed: Sequence[str] = (),
        commit_frames: int | None = None,
    ) -> None:
        self.searcher = searcher
        self.committed = list(committed)
        self.commit_frames = commit_frames
        self._num_old = 0  # words on which all hypotheses agree since they are old
        self._scores: dict = {}
        self._partial_scores: dict = {}
        if searcher.lm is not None:
            self._scores[("", False)] = (0.0, searcher.lm.get_start_state())
        empty = dict.fromkeys(("text", "full_text", "next_word", "partial_word"), "")
        none = {"last_token": None, "last_token_index": None, "text_frames": []}
        first = CTCBeam(**empty, **none, partial_frames=(-1, -1), score=0.0, score_ctc=0.0, p_b=0.0)
        self._beams = [first]
        self._num_frames = 0

    def feed(self, log_probs: Tensor) -> None:
        """Take the next log-probabilities (n, num_outputs)."""
        if not len(log_probs):
            return
        outputs = log_probs.detach().float().cpu().numpy()
        if self.commit_frames is None:
            self._search(outputs)
        else:
            for frame in outputs:
                self._search(frame[None])
                self._commit_old()
        self._commit()

    def _search(self, outputs):
        self._beams = self.searcher.partial_decoding(
            outputs,
            len(outputs),
            self._beams,
            self._scores,
            self._partial_scores,
            processed_frames=self._num_frames,
        )
        self._num_frames += len(outputs)

    def _commit_old(self):
        """Old words of the best hypothesis, unless they contradict what was told before.

        Nothing here depends on what was committed: a search that is repeated drops the same.
        """
        best, oldest = self._beams[0], self._num_frames - self.commit_frames
        count = sum(stop <= oldest for _, stop in best.text_frames)
        old = best.text.split()[:count]
        told = self.committed[:count]
        if count <= self._num_old or old[: len(told)] != told:
            return
        self._num_old = count
        self._beams = [beam for beam in self._beams if beam.text.split()[:count] == old]
        if count > len(told):
            self.committed = old

    def _commit(self):
        """What all hypotheses share, as far as it continues what was committed before."""
        several = [beam.text.split() for beam in self._beams]
        shared = several[0]
        for words in several[1:]:
            same = (a == b for a, b in zip(shared, words, strict=False))
            shared = shared[: next((i for i, equal in enumerate(same) if not equal), len(words))]
        count = len(self.committed)
        if len(shared) > count and shared[:count] == self.committed:
            self.committed = shared

    def partial(self) -> tuple[str, str]:
        """The committed words, and how the best hypothesis goes on."""
        count = len(self.committed)
        several = ([*beam.text.split(), *beam.partial_word.split()] for beam in self._beams)
        going_on = (words[count:] for words in several if words[:count] == self.committed)
        return " ".join(self.committed), " ".join(next(going_on, []))

    def finish(self, may_be_shorter: bool = False) -> str:
        """The best hypothesis; one that agrees with the committed words, if they were given."""
        beams = self.searcher.finalize_decoding(
            self._beams, self._scores, self._partial_scores, force_next_word=True, is_end=True
        )
        for beam in beams:
            words = beam.text.split()
            count = len(self.committed)
            count = min(count, len(words)) if may_be_shorter else count
            if words[:count] == self.committed[:count]:
                return " ".join(words)
        return " ".join(self.committed)


class WholeText:
    """Any function that decodes whole segments: its partials are greedy, and nothing is stable.

    Arguments
    ---------
    decode : callable
        As for `speechbrain_pom.inference.transcribe`.
    units : Units
    """

    def __init__(self, decode: Callable[[Tensor, Tensor], list[str]], units: Units) -> None:
        self.decode = decode
        self.committed: list[str] = []
        self._greedy = GreedyText(units)
        self._outputs: list[Tensor] = []

    def feed(self, log_probs: Tensor) -> None:
        """Take the next log-probabilities (n, num_outputs)."""
        self._outputs.append(log_probs)
        self._greedy.feed(log_probs)

    def partial(self) -> tuple[str, str]:
        """Nothing, and the greedy text."""
        return "", self._greedy.finish()

    def finish(self, may_be_shorter: bool = False) -> str:
        """What the function makes of all outputs."""
        if not self._outputs:
            return ""
        return self.decode(torch.cat(self._outputs).unsqueeze(0), torch.ones(1))[0]


def open_text(
    units: Units,
    decode: Callable[[Tensor, Tensor], list[str]] | None,
    committed: Sequence[str] = (),
    commit_frames: int | None = None,
) -> OpenText:
    """The text of a new segment, for a way of decoding (None: greedy).

    `commit_frames` is for `BeamText`.

    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> type(open_text(CharacterUnits(), None)).__name__
    'GreedyText'
    """
    if decode is None:
        return GreedyText(units)
    searcher = getattr(decode, "searcher", None)
    if searcher is None:
        return WholeText(decode, units)
    return BeamText(searcher, committed, commit_frames)

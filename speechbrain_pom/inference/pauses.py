"""Where CTC outputs are cut into segments: at pauses, between words."""

import numpy as np
from torch import Tensor

from speechbrain_pom.ctc.tokenizers import WORD_START, Units


def split_at_pauses(
    labels: Tensor, units: Units, pause_frames: int, max_frames: int
) -> list[tuple[int, int]]:
    """Cut frames into segments between words, where nothing is said.

    `labels` (T,) has the best output of each frame. Returned are the first frame of each segment
    and the one after its last; together they are all frames.

    Cuts are in the middle of runs of at least `pause_frames` blanks between two words, or of twice
    as many anywhere: the model has then left a space out, as no word has such gaps. A segment
    longer than `max_frames` is cut in its second half, at the best place there is: in the longest
    run of blanks between words, else between words, else in the longest run of blanks, else
    between two labels. Cuts between words leave the text of greedy decoding as it is.

    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> labels = torch.tensor([9, 10, 1, 0, 0, 0, 0, 2, 0, 3])  # "HI", a pause, "AB"
    >>> split_at_pauses(labels, CharacterUnits(), pause_frames=3, max_frames=100)
    [(0, 5), (5, 10)]
    """
    pauses, scores = _rate_cuts(labels, units, pause_frames)
    spans, start = [], 0
    for stop in [*pauses, len(labels)]:
        while stop - start > max_frames:
            first = start + max_frames // 2 + 1
            best = first + int(scores[first : start + max_frames + 1].argmax())
            if scores[best] < 0:  # one label throughout
                later = scores[best:stop] >= 0
                if not later.any():
                    break
                best += int(later.argmax())
            spans.append((start, best))
            start = best
        spans.append((start, stop))
        start = stop
    return spans


def _rate_cuts(labels, units, pause_frames):
    """Middles of pauses, and how good a cut before each frame is; negative within a label."""
    space, starts_word = word_marks(units)
    values, lengths = (part.tolist() for part in labels.unique_consecutive(return_counts=True))
    spoken = [value for value in values if value != units.blank_index]
    total, pauses, end, num_spoken = len(labels), [], 0, 0
    scores = np.full(total + 1, -1)
    for value, length in zip(values, lengths, strict=True):
        start, end = end, end + length
        # The labels around a cut at the start of this run or, if it is blank, anywhere in it.
        around = spoken[max(num_spoken - 1, 0) : num_spoken + 1] if num_spoken else []
        at_edge = len(around) < 2
        between_words = at_edge or around[0] in space or around[1] in starts_word
        rating = total * between_words
        if value == units.blank_index:
            depth = np.arange(length + 1)
            scores[start : end + 1] = rating + np.minimum(depth, length - depth)
            if length >= pause_frames * (2 - between_words) and not at_edge:
                pauses.append((start + end) // 2)
        else:
            scores[start] = max(scores[start], rating)
            num_spoken += 1
    return pauses, scores


def word_marks(units: Units) -> tuple[set[int], set[int]]:
    """Outputs that separate words, and outputs before which a word has ended."""
    tokens = list(enumerate(units.vocab_list))
    space = {i for i, token in tokens if token in (" ", WORD_START)}
    return space, space | {i for i, token in tokens if token.startswith(WORD_START)}

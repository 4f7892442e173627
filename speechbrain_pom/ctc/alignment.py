"""When each word of a decoded text was spoken, and how sure the model was of it.

The text is aligned with the CTC outputs (Viterbi: the most probable path of its labels through all
frames, by torchaudio), so any decoder's text can be aligned, and with a language model too: the
confidence is then still that of the acoustics alone.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchaudio.functional import TokenSpan, forced_align, merge_tokens

from speechbrain_pom.ctc.targets import min_ctc_frames
from speechbrain_pom.ctc.tokenizers import UNKNOWN, WORD_START, Units
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.text import single_spaces

MAX_QUOTED = 40


class Word(NamedTuple):
    """A word of a text, with its times.

    Arguments
    ---------
    text : str
        The word.
    start_s, end_s : float
        In seconds. CTC outputs are peaks: the times are those of a word's first and last label,
        which are inside the spoken word, often by a frame or two.
    confidence : float
        Geometric mean of the probabilities of the word's labels in their frames, from 0 to 1. It
        ranks words; it is not calibrated: 0.9 does not mean that nine of ten words are right.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float


def frames_needed(text: str, units: Units) -> int:
    """The fewest frames that a text can be aligned with.

    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> frames_needed("ALL", CharacterUnits())
    4
    """
    return min_ctc_frames(_labels(single_spaces(text), units))


def align_words(log_probs: Tensor, text: str, units: Units, frame_s: float) -> list[Word]:
    """The words of a decoded text in order, with times and confidences; they do not overlap.

    The outputs (T, num_outputs) are log-probabilities of one utterance, without padding; frame i
    starts at `i * frame_s`. `<unk>`, the text of SentencePiece's unknown piece, is aligned with
    that piece.

    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> units = CharacterUnits()
    >>> best = torch.tensor([0, 9, 9, 0, 10, 1, 2, 0])  # _ H H _ I space A _
    >>> outputs = torch.nn.functional.one_hot(best, units.size).float()
    >>> for word in align_words((9 * outputs).log_softmax(-1), "HI A", units, frame_s=0.04):
    ...     print(f"{word.text} {word.start_s:.2f} {word.end_s:.2f} {word.confidence:.3f}")
    HI 0.04 0.20 0.997
    A 0.24 0.28 0.997
    """
    _check_outputs(log_probs, units)
    text = single_spaces(text)
    if not text:
        return []
    labels = _labels(text, units)
    if (num_needed := min_ctc_frames(labels)) > len(log_probs):
        raise UserError(
            f"the text {text[:MAX_QUOTED]!r} needs {num_needed} frames (one for each "
            f"label, and one between equal ones), but there are {len(log_probs)}: it cannot be "
            "what was said"
        )
    targets = torch.tensor([labels], dtype=torch.int32)
    # Where all paths are impossible (-inf), torchaudio's search returns labels that do not exist.
    outputs = log_probs.detach().float().cpu().clamp(min=-100.0).contiguous()
    path, scores = forced_align(outputs.unsqueeze(0), targets, blank=units.blank_index)
    spans = merge_tokens(path[0], scores[0], blank=units.blank_index)
    words = _spans_of_words(spans, units)
    return [_word(*word, frame_s) for word in zip(text.split(" "), words, strict=True)]


def _check_outputs(log_probs: Tensor, units: Units) -> None:
    if log_probs.dim() != 2 or log_probs.shape[1] != units.size:
        raise UserError(
            f"outputs to align are (frames, {units.size} outputs) of one utterance, not "
            f"{tuple(log_probs.shape)}"
        )
    if log_probs.isnan().any():
        raise UserError("the outputs to align are NaN: the model has diverged")
    if (log_probs > 1e-3).any():
        raise UserError("alignment needs log-probabilities: apply log_softmax to the outputs")


def _labels(text: str, units: Units) -> list[int]:
    """The labels of a text that may contain unknown pieces, which no text is encoded to."""
    if UNKNOWN not in units.vocab_list or UNKNOWN not in text:
        return units.encode(text)
    units.encode(text.replace(UNKNOWN, " "))  # refuses characters that do not exist
    labels = []
    for word in text.split(" "):
        known, *parts = word.split(UNKNOWN)
        labels += units.encode(known) if known else [units.vocab_list.index(WORD_START)]
        for part in parts:
            # Inside of a word there is no piece that starts one; single characters are pieces.
            labels += [units.vocab_list.index(piece) for piece in (UNKNOWN, *part)]
    return labels


def _spans_of_words(spans: list[TokenSpan], units: Units) -> list[list[TokenSpan]]:
    """The spans of each word's labels; a space between words belongs to neither."""
    words = [[]]
    for span in spans:
        token = units.vocab_list[span.token]
        if token == " " or (token.startswith(WORD_START) and words[-1]):
            words.append([])
        if token != " ":
            words[-1].append(span)
    return words


def _word(text: str, spans: list[TokenSpan], frame_s: float) -> Word:
    # A label's score is the mean of its log-probabilities, however many frames it lasts.
    confidence = math.exp(min(0.0, sum(span.score for span in spans) / len(spans)))
    return Word(text, spans[0].start * frame_s, spans[-1].end * frame_s, confidence)

"""Greedy and beam search decoding of CTC outputs, over SpeechBrain's (paper section 4).

Greedy search is for validation, beam search for tests: its time grows with how unsure the model is
(400 frames: 0.03 s where it is sharp, 25 s where it has learnt nothing).
What SpeechBrain's `CTCBeamSearcher` (1.1.2) does, and what is done about it here:

* It truncates relative lengths to frames where its CTC loss and its greedy search round them, and
  so can lose the last frame: here every utterance is cut to its rounded length first.
* It truncates outputs beyond its vocabulary with a warning and takes logits for log-probabilities:
  both are refused here. 16-bit outputs are decoded in fp32, on the CPU.
* Of an ARPA file it knows only the words that have a back-off weight, so that the others count as
  unknown: here all of the file's words are read.
* Without the list of a model's words (a KenLM binary does not give it), every word that is not
  finished counts as unknown, at `unk_score_offset` (-10): here a binary needs its list of words.
* The language model scores the start of the sentence but not its end (`</s>`): kept, so that
  scores stay comparable with other SpeechBrain results.
* Without `pygtrie` it says that `kenlm` is missing: here both are checked by name.
"""

from collections.abc import Callable

import torch
from speechbrain.decoders.ctc import CTCBeamSearcher, filter_ctc_output
from torch import Tensor

from speechbrain_pom.ctc.language_model import language_model_words
from speechbrain_pom.ctc.tokenizers import Units
from speechbrain_pom.utils.errors import UserError


def greedy_decode(log_probs: Tensor, lengths_relative: Tensor, units: Units) -> list[str]:
    """The text of the best output of each frame, without repetitions and blanks.

    Outputs (B, T, num_outputs) are log-probabilities or logits, lengths (B,) are relative.

    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> units = CharacterUnits()
    >>> outputs = torch.nn.functional.one_hot(torch.tensor([[9, 9, 0, 10, 27]]), units.size)
    >>> greedy_decode(outputs.float().log_softmax(-1), torch.tensor([0.8]), units)
    ['HI']
    """
    num_frames = _count_frames(log_probs, lengths_relative, units.size)
    best = log_probs.argmax(dim=-1).tolist()
    return [
        units.decode(filter_ctc_output(frames[:n], blank_id=units.blank_index))
        for frames, n in zip(best, num_frames, strict=True)
    ]


def make_beam_searcher(
    units: Units,
    *,
    beam_size: int = 200,
    beam_prune_logp: float = -10.0,
    token_prune_min_logp: float = -5.0,
    kenlm_model_path: str | None = None,
    kenlm_words_path: str | None = None,
    alpha: float = 0.8,
    beta: float = 1.2,
) -> Callable[[Tensor, Tensor], list[str]]:
    """Make a beam search decoder, with or without a word n-gram; the defaults are the paper's.

    Arguments
    ---------
    units : Units
        What the outputs mean.
    beam_size : int
        Number of hypotheses kept.
    beam_prune_logp : float
        Hypotheses this far (in natural log) below the best one are dropped.
    token_prune_min_logp : float
        Outputs below this log-probability are not followed, the frame's best one excepted.
    kenlm_model_path : str, optional
        n-gram of words: an ARPA file (`.gz` too) or a KenLM binary. None: no language model.
    kenlm_words_path : str, optional
        The n-gram's words, one per line; needed with a KenLM binary, which does not list them.
    alpha : float
        Weight of the language model.
    beta : float
        Score added per word.

    Returns
    -------
    callable
        `decode(log_probs, lengths_relative) -> list of str`, the shapes as in
        `greedy_decode`.

    Example
    -------
    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> units = CharacterUnits()
    >>> decode = make_beam_searcher(units, beam_size=8)
    >>> outputs = torch.nn.functional.one_hot(torch.tensor([[9, 9, 0, 10, 27]]), units.size)
    >>> decode((9.0 * outputs).log_softmax(-1), torch.tensor([0.8]))
    ['HI']
    """
    _check_pruning(beam_size, beam_prune_logp, token_prune_min_logp)
    options = {}
    if kenlm_model_path is not None:
        words = language_model_words(kenlm_model_path, kenlm_words_path, units)
        options = {"kenlm_model_path": str(kenlm_model_path), "unigrams": words}
    try:
        searcher = CTCBeamSearcher(
            units.blank_index,
            units.vocab_list,
            beam_size=beam_size,
            beam_prune_logp=beam_prune_logp,
            token_prune_min_logp=token_prune_min_logp,
            alpha=alpha,
            beta=beta,
            **options,
        )
    except OSError as error:  # KenLM could not read the model
        reason = str(error).rsplit("threw ", 1)[-1].removesuffix(")")
        raise UserError(f"kenlm_model_path: {kenlm_model_path} is damaged ({reason})") from error

    def decode(log_probs: Tensor, lengths_relative: Tensor) -> list[str]:
        num_frames = _count_frames(log_probs, lengths_relative, units.size)
        utterances = [
            frames[:n]
            for frames, n in zip(log_probs.detach().float().cpu(), num_frames, strict=True)
        ]
        if any((frames > 1e-3).any() for frames in utterances):
            raise UserError("beam search needs log-probabilities: apply log_softmax to the outputs")
        return [searcher(frames[None])[0][0].text for frames in utterances]

    decode.searcher = searcher  # for streams, which search piece by piece
    return decode


def blank_share(log_probs: Tensor, lengths_relative: Tensor, blank_index: int = 0) -> float:
    """Return the share of the frames whose best output is the blank.

    >>> outputs = torch.nn.functional.one_hot(torch.tensor([[0, 0, 1, 0, 2]]), 3)
    >>> blank_share(outputs.float(), torch.tensor([0.8]))
    0.75
    """
    num_frames = _count_frames(log_probs, lengths_relative)
    is_blank = (log_probs.argmax(dim=-1) == blank_index).cpu()
    num_blank = sum(int(frames[:n].sum()) for frames, n in zip(is_blank, num_frames, strict=True))
    return num_blank / sum(num_frames) if sum(num_frames) else 1.0


def _check_pruning(beam_size: int, beam_prune_logp: float, token_prune_min_logp: float) -> None:
    """Raise if no hypothesis could survive."""
    if isinstance(beam_size, bool) or not isinstance(beam_size, int) or beam_size < 1:
        raise UserError(f"beam_size is {beam_size!r}: give an integer of at least 1")
    for name, value in (
        ("beam_prune_logp", beam_prune_logp),
        ("token_prune_min_logp", token_prune_min_logp),
    ):
        if not value < 0:
            raise UserError(f"{name} is {value!r}: give a log-probability below 0, e.g. -10.0")


def _count_frames(
    log_probs: Tensor, lengths_relative: Tensor, num_outputs: int | None = None
) -> list[int]:
    """Check a batch of outputs and return its numbers of valid frames, rounded as the loss does."""
    if log_probs.dim() != 3 or lengths_relative.shape != log_probs.shape[:1]:
        raise UserError(
            "CTC outputs are (batch, frames, outputs) with one relative length per utterance, not "
            f"{tuple(log_probs.shape)} with lengths {tuple(lengths_relative.shape)}"
        )
    if num_outputs is not None and log_probs.shape[2] != num_outputs:
        raise UserError(
            f"the model has {log_probs.shape[2]} outputs, but the units have {num_outputs}: "
            "decode with the units that it was trained with"
        )
    lengths = lengths_relative.detach().float().cpu()
    if not ((lengths >= 0) & (lengths <= 1.0001)).all():
        raise UserError(
            f"lengths are relative to the longest utterance, from 0 to 1, not {lengths.tolist()}"
        )
    num_frames = torch.round(lengths.clamp(max=1) * log_probs.shape[1]).int().tolist()
    is_nan = log_probs.isnan().any(dim=-1).cpu()
    if any(frames[:n].any() for frames, n in zip(is_nan, num_frames, strict=True)):
        raise UserError("the outputs to decode are NaN: the model has diverged")
    return num_frames

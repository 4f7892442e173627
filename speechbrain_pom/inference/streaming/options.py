"""How a stream's outputs become events, in seconds as given and in frames as saved."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from speechbrain_pom.encoder.weights import hash_of_tensors
from speechbrain_pom.utils.errors import UserError

if TYPE_CHECKING:  # the recogniser stands on this module
    from speechbrain_pom.inference.recogniser import SpeechRecogniser

DEFAULT_PAUSE_S = 0.6
DEFAULT_MAX_SEGMENT_S = 30.0
HEAD = "text.head"
OPTIONS = "text.options"
_NO_COMMIT = 0


class TextOptions(NamedTuple):
    """As for `SpeechRecogniser.stream`; None: the default, or as in a state.

    Arguments
    ---------
    pause_s, max_segment_s : float, optional
    decode : callable, optional
    reset_at_pauses : bool, optional
    commit_s : float, optional
    """

    pause_s: float | None = None
    max_segment_s: float | None = None
    decode: Callable[[Tensor, Tensor], list[str]] | None = None
    reset_at_pauses: bool | None = None
    commit_s: float | None = None


class Lengths(NamedTuple):
    """What a state says of the decoder that it is of.

    Arguments
    ---------
    pause, max_segment : int
        In frames.
    commit : int or None
        In frames; None: old words are not committed.
    resets : bool
        Whether the mixers' sums begin anew at pauses.
    """

    pause: int
    max_segment: int
    commit: int | None = None
    resets: bool = False

    def tensor(self) -> Tensor:
        """As it is saved: two numbers, or four where there is anything but lengths of segments."""
        more = [self.commit or _NO_COMMIT, int(self.resets)]
        return torch.tensor([*self[:2], *(more if any(more) else [])])


def lengths_for(
    recogniser: SpeechRecogniser,
    options: TextOptions,
    frame_s: float,
    state: Mapping[str, Tensor] | None = None,
) -> Lengths:
    """Options in frames: those of a saved state where they are not given.

    Raises
    ------
    UserError
        For options that cannot be, and a state of other ones.
    """
    stored = None if state is None else _stored(recogniser, state)
    frames = {}
    for name, default in (
        ("pause_s", DEFAULT_PAUSE_S),
        ("max_segment_s", DEFAULT_MAX_SEGMENT_S),
        ("commit_s", None),
    ):
        given = getattr(options, name)
        found = _in_frames(name, default if given is None else given, frame_s)
        before = stored and getattr(stored, name.removesuffix("_s"))
        if stored is not None and given is not None and found != before:
            before_s = "none" if before is None else f"{before * frame_s:g}"
            raise UserError(
                f"{name} is {given:g}, and the state is of a stream with {before_s}: leave it out "
                "to go on as it was"
            )
        frames[name] = found if stored is None else before
    resets = _resets(options.reset_at_pauses, stored)
    _check_commit(frames["commit_s"], options)
    return Lengths(*frames.values(), resets)


def _in_frames(name, seconds, frame_s):
    if seconds is None:
        return None
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not (is_number and 0 < seconds < math.inf):
        raise UserError(f"{name} is {seconds!r}: give seconds, more than 0")
    return max(1, round(seconds / frame_s))


def _resets(given, stored):
    if given not in (None, True, False):
        raise UserError(f"reset_at_pauses is {given!r}: give True or False")
    if stored is not None and given is not None and stored.resets != given:
        raise UserError(
            f"reset_at_pauses is {given}, and the state is of a stream with {stored.resets}: leave "
            "it out to go on as it was"
        )
    return bool(given) if stored is None else stored.resets


def _check_commit(commit_frames, options):
    if commit_frames is not None and not hasattr(options.decode, "searcher"):
        raise UserError(
            "commit_s is for beam search, and this decoding has no hypotheses that could disagree: "
            "give decode=make_beam_searcher(...), or leave commit_s out"
        )


def _stored(recogniser, state):
    options, head = state.get(OPTIONS), state.get(HEAD)
    if options is None or options.shape not in ((2,), (4,)) or head is None:
        raise UserError(
            "the state is not one of a recognised stream: give what recogniser.stream().state() "
            "returned"
        )
    if not torch.equal(head, head_fingerprint(recogniser)):
        raise UserError("the state is of another model: its head or its units are others")
    pause, max_segment, *more = options.tolist()
    commit, resets = more or (_NO_COMMIT, 0)
    return Lengths(pause, max_segment, commit or None, bool(resets))


def head_fingerprint(recogniser: SpeechRecogniser) -> Tensor:
    """What a state must share with a recogniser besides its encoder: (32,) bytes."""
    facts = f"{hash_of_tensors(recogniser.head)} {recogniser.units.vocab_list}"
    return torch.tensor(list(hashlib.sha256(facts.encode()).digest()), dtype=torch.uint8)

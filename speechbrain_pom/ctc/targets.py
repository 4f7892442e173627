"""Checks of all transcripts before the first step: encodable, fitting the model, alignable."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from speechbrain_pom.ctc.tokenizers import Units
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.text import MAX_NAMED, and_more, name_characters, single_spaces


def min_ctc_frames(labels: Sequence[int]) -> int:
    """The fewest frames for CTC: one for each label, and a blank between equal neighbours.

    >>> min_ctc_frames([4, 5, 5, 5])
    6
    """
    return len(labels) + sum(left == right for left, right in pairwise(labels))


def check_targets(
    units: Units,
    texts_by_id: Mapping[str, str],
    num_output_frames_by_id: Mapping[str, int] | None = None,
    num_outputs: int | None = None,
) -> dict[str, str]:
    """Check the transcripts of all splits against the units and the model, before the first step.

    Labels beyond the output layer are not noticed by PyTorch's CTC loss: it reads and writes past
    its memory. An utterance with too few frames has an infinite loss, which the usual
    `zero_infinity` hides: these are returned, utterance id to the reason.

    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> check_targets(CharacterUnits(), {"a": "HELLO", "b": "HI"}, {"a": 5, "b": 2}, 29)
    {'a': '5 output frames for 5 labels, which need at least 6'}
    """
    if num_outputs is not None and num_outputs != units.size:
        raise UserError(
            f"the output layer has {num_outputs} outputs, but the {units.kind} units have "
            f"{units.size} (blank included): set output_neurons to {units.size}"
        )
    _check_encodable(units, texts_by_id)
    infeasible = {}
    for utterance_id in texts_by_id if num_output_frames_by_id is not None else ():
        labels = units.encode(texts_by_id[utterance_id])
        num_frames, num_needed = num_output_frames_by_id[utterance_id], min_ctc_frames(labels)
        if num_frames < num_needed:
            infeasible[utterance_id] = (
                f"{num_frames} output frames for {len(labels)} labels, "
                f"which need at least {num_needed}"
            )
    return infeasible


def _check_encodable(units: Units, texts_by_id: Mapping[str, str]) -> None:
    """Raise if a transcript is empty or cannot be encoded, naming up to 10 utterances."""
    empty = [key for key, text in texts_by_id.items() if not single_spaces(text)]
    if empty:
        raise UserError(
            f"{len(empty)} of {len(texts_by_id)} transcripts are empty: "
            f"{', '.join(empty[:MAX_NAMED])}{and_more(empty)}: remove these utterances"
        )
    missing = {key: units.missing_characters(text) for key, text in texts_by_id.items()}
    bad = [
        f"{key}: {name_characters(characters)}" for key, characters in missing.items() if characters
    ]
    if bad:
        raise UserError(
            f"{len(bad)} of {len(texts_by_id)} transcripts cannot be encoded: "
            f"{'; '.join(bad[:MAX_NAMED])}{and_more(bad)}: {units.advice}"
        )

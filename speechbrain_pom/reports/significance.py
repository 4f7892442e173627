"""Whether two systems differ on the same utterances: paired, per utterance.

The interval is a bootstrap over utterances, the same draws for both systems (Bisani and Ney,
ICASSP 2004). The p-value is that of a randomisation test: if the systems were equal, the errors of
an utterance could as well be those of the other one.
"""

from typing import NamedTuple, TypeAlias

import numpy as np

from speechbrain_pom.utils.bootstrap import ratio_with_interval
from speechbrain_pom.utils.errors import UserError

_CHUNK = 500  # randomisations at a time: 10 MB for the utterances of a LibriSpeech test


Counts: TypeAlias = dict[str, tuple[int, int]]


class Difference(NamedTuple):
    """The error rate of one system minus that of another, in percentage points.

    Arguments
    ---------
    difference : float
        Negative if the first system makes fewer errors.
    low, high : float
        The 95 % interval.
    p_value : float
        Two-sided; at least 1 / (number of randomisations + 1).
    num_better, num_worse : int
        Utterances in which the first system makes fewer and more errors.
    """

    difference: float
    low: float
    high: float
    p_value: float
    num_better: int
    num_worse: int


def paired_difference(
    first: Counts,
    second: Counts,
    num_bootstrap: int = 1000,
    num_randomisations: int = 10000,
    seed: int = 0,
) -> Difference:
    """Compare two systems on the same utterances.

    `first` and `second` map an utterance id to (edits, words), as from
    `speechbrain_pom.ctc.scoring.read_word_edits`. Trial i of the bootstrap draws with seed i, as
    for the interval of one system; `seed` is that of the randomisations.

    >>> worse = {f"u{i}": (2, 10) for i in range(50)}
    >>> better = {f"u{i}": (1, 10) for i in range(50)}
    >>> found = paired_difference(better, worse, num_bootstrap=100)
    >>> found.difference, found.low, found.high, found.num_better
    (-10.0, -10.0, -10.0, 50)
    >>> found.p_value < 0.001
    True
    """
    for name, number in (("bootstrap", num_bootstrap), ("randomisations", num_randomisations)):
        if number < 1:
            raise UserError(f"num_{name} is {number}: give at least 1, e.g. 1000")
    check_same_utterances(first, second)
    keys = sorted(first)
    edits = np.array([(first[key][0], second[key][0]) for key in keys])
    num_tokens = np.array([first[key][1] for key in keys])
    change = edits[:, 0] - edits[:, 1]
    centre, low, high = ratio_with_interval(change, num_tokens, num_bootstrap)
    p_value = _randomised(change[change != 0], num_randomisations, seed)
    better, worse = int((change < 0).sum()), int((change > 0).sum())
    return Difference(centre, low, high, p_value, better, worse)


def check_same_utterances(first: Counts, second: Counts) -> None:
    """Refuse to compare systems that were tested on different utterances."""
    different = sorted(first.keys() ^ second.keys())
    if different:
        raise UserError(
            f"not the same utterances: {len(first)} and {len(second)}, of which {len(different)} "
            f"are in one of them alone, such as '{different[0]}'"
        )
    changed = [key for key in sorted(first) if first[key][1] != second[key][1]]
    if changed:
        raise UserError(
            f"not the same transcripts: '{changed[0]}' has {first[changed[0]][1]} and "
            f"{second[changed[0]][1]} words"
        )


def _randomised(change, num_randomisations, seed):
    """Share of random exchanges that differ at least as much; the observed one is one of them."""
    generator = np.random.default_rng(seed)
    observed, extreme = abs(change.sum()), 1
    for start in range(0, num_randomisations, _CHUNK):
        shape = (min(_CHUNK, num_randomisations - start), len(change))
        signs = 2 * generator.integers(0, 2, size=shape, dtype=np.int8) - 1
        extreme += int((abs(signs @ change) >= observed).sum())
    return extreme / (num_randomisations + 1)

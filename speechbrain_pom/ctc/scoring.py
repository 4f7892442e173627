"""Word and character error rates with bootstrap intervals (paper section 4).

Edits are counted by SpeechBrain's `ErrorRateStats`; the 95 % intervals are those of the
`confidence_intervals` package: utterances are drawn with replacement, 1000 times as published.
"""

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from speechbrain.utils.metric_stats import ErrorRateStats

from speechbrain_pom.utils.bootstrap import rate_with_interval
from speechbrain_pom.utils.errors import UserError

# Of an utterance in SpeechBrain's report: "id, %WER 50.00 [ 1 / 2, 0 ins, 0 del, 1 sub ]". The
# first line of the report has the same without the id.
_COUNTS = re.compile(r"%WER \S+ \[ (\d+) / (\d+), \d+ ins, \d+ del, \d+ sub \]$")
_RULE = "=" * 80


class ErrorRates:
    """Error rates of a set of utterances, by words and by characters.

    Words are separated by white space. Characters are those of the words joined by single
    spaces: the space counts as a character, so that a missed word boundary is an error.

    Example
    -------
    >>> rates = ErrorRates()
    >>> rates.append(["a", "b"], ["ONE TWO", ""], ["ONE TWO", "TWO TEN"])
    >>> summary = rates.summary(num_bootstrap=100)
    >>> summary["wer"], summary["cer"], summary["empty_outputs"]
    (50.0, 50.0, 1)
    """

    def __init__(self):
        self._words = ErrorRateStats()
        self._characters = ErrorRateStats(split_tokens=True, space_token=" ")
        self._ids: set[str] = set()

    def append(
        self, ids: Sequence[str], predictions: Sequence[str], references: Sequence[str]
    ) -> None:
        """Add utterances with unique ids: recognised texts and transcripts."""
        if not len(ids) == len(predictions) == len(references):
            raise UserError(
                f"{len(ids)} ids, {len(predictions)} predictions and {len(references)} references "
                "cannot be paired"
            )
        seen = set(self._ids)
        for key in ids:
            if key in seen:
                raise UserError(f"utterance {key} is scored twice: ids must be unique")
            seen.add(key)
        predictions = [text.split() for text in predictions]
        references = [text.split() for text in references]
        for key, reference in zip(ids, references, strict=True):
            if not reference:
                raise UserError(f"utterance {key} has an empty transcript: remove it from the set")
        self._ids = seen
        for stats in (self._words, self._characters):
            stats.append(ids, predictions, references)

    def summary(self, num_bootstrap: int = 1000) -> dict[str, float | int]:
        """The error rates with their 95 % intervals in percent, and counts.

        The same utterances give the same numbers, in whatever order they came: trial `i` draws
        with seed `i` from the utterances sorted by id, and no global random state is touched.
        Systems scored on the same utterances are thus resampled in the same way.
        """
        if not self._ids:
            raise UserError("no utterance has been scored: the set is empty")
        if num_bootstrap < 1:
            raise UserError(f"num_bootstrap is {num_bootstrap}: give at least 1, e.g. 1000")
        wer, wer_low, wer_high = _rate_with_interval(self._words.scores, num_bootstrap)
        cer, cer_low, cer_high = _rate_with_interval(self._characters.scores, num_bootstrap)
        counts = self._words.summarize()
        return {
            "wer": wer,
            "wer_low": wer_low,
            "wer_high": wer_high,
            "cer": cer,
            "cer_low": cer_low,
            "cer_high": cer_high,
            "num_utterances": len(self._ids),
            "num_words": counts["num_scored_tokens"],
            "insertions": counts["insertions"],
            "deletions": counts["deletions"],
            "substitutions": counts["substitutions"],
            "empty_outputs": sum(score["hyp_empty"] for score in self._words.scores),
        }

    def write(self, path: str | os.PathLike) -> None:
        """Write SpeechBrain's report: the word error rate and every utterance's alignment."""
        self._words.summarize()  # write_stats alone would keep the summary of an earlier call
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            self._words.write_stats(file)


def read_word_edits(path: str | os.PathLike) -> dict[str, tuple[int, int]]:
    """Utterance id to (edited words, words), read back from what `ErrorRates.write` wrote.

    >>> rates = ErrorRates()
    >>> rates.append(["a", "b"], ["ONE TWO", ""], ["ONE TEN", "SIX"])
    >>> path = getfixture("tmp_path") / "wer.txt"
    >>> rates.write(path)
    >>> read_word_edits(path)
    {'a': (1, 2), 'b': (1, 1)}
    """
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    total = _COUNTS.match(lines[0])
    edits = {}
    for rule, line in itertools.pairwise(lines):
        found = _COUNTS.search(line) if rule == _RULE else None
        if found:
            edits[line[: found.start()].removesuffix(", ")] = (int(found[1]), int(found[2]))
    sums = tuple(sum(column) for column in zip(*edits.values(), strict=True))
    if total is None or sums != (int(total[1]), int(total[2])):
        raise UserError(f"'{path}' is not a complete report of errors: run the test again")
    return edits


def _rate_with_interval(scores: list[dict], num_bootstrap: int) -> tuple[float, float, float]:
    """Return an error rate and the ends of its 95 % interval, in percent."""
    counts = {score["key"]: (score["num_edits"], score["num_ref_tokens"]) for score in scores}
    return rate_with_interval(counts, num_bootstrap)

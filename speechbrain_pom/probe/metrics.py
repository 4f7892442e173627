"""Figures of a probe: accuracy with its interval, confusions, equal error rate."""

from collections import Counter
from collections.abc import Sequence

import torch

from speechbrain_pom.data.trials import check_trials, draw_trials
from speechbrain_pom.probe.verification import cosine_scores, eer_of_scores
from speechbrain_pom.runs.metrics import Metric, TaskMetrics
from speechbrain_pom.training.costs import GRADIENT_METRICS
from speechbrain_pom.utils.bootstrap import rate_with_interval
from speechbrain_pom.utils.errors import UserError

PROBE_METRICS = TaskMetrics(
    "probe",
    (
        Metric("loss", "nats", better="lower", panel="Loss"),
        Metric("error_rate", "%", better="lower", panel="Classification"),
        *GRADIENT_METRICS,
        Metric("accuracy", "%", parts=("test",)),
        Metric("commonest_class", "%", parts=("test",)),
        Metric("eer", "%", label="equal error rate", parts=("test",)),
        Metric("num_utterances", "count", label="utterances", parts=("test",)),
    ),
    best="error_rate",
)
_MAX_CONFUSIONS = 10


class ClassificationScores:
    """Right and wrong answers of a set of utterances.

    Example
    -------
    >>> scores = ClassificationScores()
    >>> scores.append(["a", "b", "c", "d"], ["RED", "RED", "RED", "BLUE"], ["RED"] * 3 + ["GREEN"])
    >>> summary = scores.summary(num_bootstrap=100)
    >>> summary["accuracy"], summary["commonest_class"], summary["confusions"]
    (75.0, 75.0, [{'class': 'GREEN', 'taken_for': 'BLUE', 'count': 1, 'of': 1}])
    """

    def __init__(self):
        self._answers = {}

    def append(
        self, ids: Sequence[str], predictions: Sequence[str], references: Sequence[str]
    ) -> None:
        """Add utterances.

        Arguments
        ---------
        ids : sequence of str
            Each utterance counts once.
        predictions, references : sequence of str
            Names of classes.
        """
        for key, prediction, reference in zip(ids, predictions, references, strict=True):
            self._answers[key] = (reference, prediction)

    def answers(self) -> dict[str, tuple[str, str]]:
        """ID to (label, answer) of all utterances."""
        return dict(self._answers)

    def _check_scored(self):
        if not self._answers:
            raise UserError("no utterance has been scored: the set is empty")

    def error_rate(self) -> float:
        """Share of wrong answers, in percent; a UserError if there are no answers."""
        self._check_scored()
        wrong = sum(reference != prediction for reference, prediction in self._answers.values())
        return 100.0 * wrong / len(self._answers)

    def summary(self, num_bootstrap: int = 1000) -> dict:
        """Accuracy with its 95 % interval, and where the errors are.

        The interval is that of utterances drawn with replacement, as for word error rates: it
        does not show what other speakers would change.

        Arguments
        ---------
        num_bootstrap : int
            Number of bootstrap trials.

        Returns
        -------
        dict
            `accuracy`, `accuracy_low`, `accuracy_high` (%); `commonest_class`, the accuracy (%)
            of always naming the commonest class; `num_utterances`; `classes`, for each one its
            number of utterances and of right answers; `confusions`, the worst pairs.

        Raises
        ------
        UserError
            If nothing has been scored.
        """
        self._check_scored()
        counts = {key: (int(a == b), 1) for key, (a, b) in self._answers.items()}
        accuracy, low, high = rate_with_interval(counts, num_bootstrap)
        pairs = Counter(self._answers.values())
        totals = Counter(reference for reference, _ in self._answers.values())
        wrong = {pair: count for pair, count in pairs.items() if pair[0] != pair[1]}
        worst = sorted(wrong, key=lambda pair: (-wrong[pair], totals[pair[0]], pair))
        return {
            "accuracy": accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "commonest_class": 100.0 * max(totals.values()) / len(counts),
            "num_utterances": len(counts),
            "classes": {
                name: {"utterances": totals[name], "right": pairs[name, name]}
                for name in sorted(totals)
            },
            "confusions": [
                {"class": a, "taken_for": b, "count": wrong[a, b], "of": totals[a]}
                for a, b in worst[:_MAX_CONFUSIONS]
            ],
        }


def format_scores(summary: dict) -> str:
    """A summary in one line.

    >>> scores = ClassificationScores()
    >>> scores.append(["a", "b"], ["RED", "RED"], ["RED", "RED"])
    >>> format_scores(scores.summary(num_bootstrap=100))
    'accuracy 100.00 ±0.00 % (100.00 to 100.00), commonest class 100.00 %, utterances 2'
    """
    pairs = [
        "{count} of {of} {class} as {taken_for}".format(**pair)
        for pair in summary["confusions"][:3]
    ]
    worst = f"; worst: {', '.join(pairs)}" if pairs else ""
    return PROBE_METRICS.format_results(summary) + worst


TRIALS_ADVICE = "give other verification_splits or another verification_share, or none"


def equal_error_rate(
    embeddings: dict[str, torch.Tensor], speakers: dict[str, str], num_trials: int = 20000
) -> dict:
    """Verification of speakers: the error rate where misses and false alarms are equally many.

    Trials are pairs of utterances, scored by the cosine of their embeddings: half of them of the
    same speaker, half of different ones, or all where there are fewer. They are drawn by the ids
    of the utterances alone, the same for every encoder and seed.

    Arguments
    ---------
    embeddings : dict of str to torch.Tensor
        Utterance id to (d_model,).
    speakers : dict of str to str
        Utterance id to speaker.
    num_trials : int
        The largest number of trials.

    Returns
    -------
    dict
        `eer` (%), `num_same`, `num_different` (trials), `num_speakers`.

    Raises
    ------
    UserError
        If no two utterances are of the same speaker, or all are; `speechbrain_pom.data.trials
        .check_trials` says so before anything is trained.

    Example
    -------
    >>> vectors = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]
    >>> embeddings = {key: torch.tensor(x) for key, x in zip("abcd", vectors)}
    >>> equal_error_rate(embeddings, {"a": "1", "b": "1", "c": "2", "d": "2"})
    {'eer': 0.0, 'num_same': 2, 'num_different': 4, 'num_speakers': 2}
    """
    check_trials(list(speakers.values()), TRIALS_ADVICE)
    trials = draw_trials({key: speakers[key] for key in embeddings}, num_trials)
    scores = cosine_scores(trials, embeddings)
    is_same = torch.tensor([trial.is_same for trial in trials])
    num_same = int(is_same.sum())
    return {
        "eer": 100.0 * eer_of_scores(scores[is_same], scores[~is_same]),
        "num_same": num_same,
        "num_different": len(trials) - num_same,
        "num_speakers": len({speakers[k] for one in trials for k in (one.enrolment, one.test)}),
    }

"""What a test leaves of each utterance or trial: files, from which reports count again."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from speechbrain_pom.data.trials import Trial
from speechbrain_pom.probe.verification import eer_interval, eer_of_scores
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically

_COLUMNS = ("ID", "label", "answer")


def write_answers(path: str | Path, answers: Mapping[str, tuple[str, str]]) -> None:
    """Write a classifier's answers: ID to (label, answer)."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((key, *answers[key]) for key in sorted(answers))
    write_atomically(Path(path), text.getvalue())


def read_wrong_answers(path: str | Path) -> dict[str, tuple[int, int]]:
    """Utterance ID to (wrong answers, 1), from what `write_answers` wrote.

    >>> path = getfixture("tmp_path") / "answers_test.csv"
    >>> write_answers(path, {"a": ("RED", "RED"), "b": ("RED", "BLUE")})
    >>> read_wrong_answers(path)
    {'a': (0, 1), 'b': (1, 1)}
    """
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise UserError(f"'{path}' is no list of answers: run the test again")
        return {row["ID"]: (int(row["label"] != row["answer"]), 1) for row in reader}


def verification_figures(
    trials: Sequence[Trial],
    scores: torch.Tensor,
    speakers: Mapping[str, str],
    num_bootstrap: int,
) -> dict[str, float | int]:
    """Equal error rate of scored trials with its 95 % interval over speakers, in %, and counts.

    >>> speakers = {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}
    >>> trials = [Trial("a1", "a2", True), Trial("b1", "b2", True), Trial("a1", "b1", False)]
    >>> verification_figures(trials, torch.tensor([0.9, 0.8, 0.1]), speakers, 20)["eer"]
    0.0
    """
    same = torch.tensor([trial.is_same for trial in trials])
    low, high = eer_interval(trials, scores, speakers, num_bootstrap)
    return {
        "eer": 100.0 * eer_of_scores(scores[same], scores[~same]),
        "eer_low": 100.0 * low,
        "eer_high": 100.0 * high,
        "num_trials": len(trials),
        "num_same": int(same.sum()),
        "num_speakers": len({speakers[k] for one in trials for k in (one.enrolment, one.test)}),
    }


def write_scores(path: str | Path, trials: Sequence[Trial], scores: torch.Tensor) -> None:
    """Write scored trials, as `LABEL ENROLMENT TEST SCORE`."""
    lines = (
        f"{int(trial.is_same)} {trial.enrolment} {trial.test} {score:.6f}\n"
        for trial, score in zip(trials, scores.tolist(), strict=True)
    )
    write_atomically(Path(path), "".join(lines))

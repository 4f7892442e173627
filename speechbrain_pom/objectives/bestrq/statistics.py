"""What pretraining by BEST-RQ measures: whether it learns, or its targets have collapsed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from speechbrain_pom.runs.metrics import Metric
from speechbrain_pom.utils.errors import UserError

_CODES = {"panel": "Codes", "parts": ("valid",), "axis": "log", "digits": 0, "summary": "last"}

METRICS = (
    Metric("loss", "nats", better="lower", panel="Loss"),
    Metric(
        "accuracy",
        "share",
        label="masked accuracy",
        better="higher",
        panel="Masked prediction",
        compared_with="top_code_share",
    ),
    Metric(
        "top_code_share",
        "share",
        label="commonest code",
        panel="Masked prediction",
        parts=("valid",),
    ),
    Metric("code_perplexity", **_CODES),
    Metric("codes_in_use", **_CODES),
    Metric("masked_share", "share", label="masked frames"),
)


def summarise(sums: Mapping[str, float | torch.Tensor]) -> dict[str, float | int]:
    """The metrics of all predicted encoder frames together, however they were cut into batches.

    Arguments
    ---------
    sums : mapping of str to float or torch.Tensor
        ``loss_sum`` (cross-entropy), ``num_correct``, ``counts`` (V, how often each code was the
        target), ``num_masked`` and ``num_valid`` (feature frames without padding).

    Returns
    -------
    dict
        ``loss`` (mean cross-entropy per predicted frame, nats), ``accuracy``, ``codes_in_use``
        (distinct targets), ``code_perplexity`` (exponential of the entropy of the targets),
        ``top_code_share`` (share of the commonest target: the accuracy of always guessing it),
        ``masked_share`` (masked feature frames / valid ones).
        A loss that is not finite is shown as it is.

    Raises
    ------
    UserError
        If no frame has been predicted: there is nothing to be said about it.

    Example
    -------
    >>> counts = torch.tensor([2, 1, 0, 1])
    >>> sums = {"loss_sum": 2.0, "num_correct": 3, "num_masked": 16, "num_valid": 40}
    >>> summary = summarise({**sums, "counts": counts})
    >>> summary["loss"], summary["accuracy"], summary["codes_in_use"], summary["masked_share"]
    (0.5, 0.75, 3, 0.4)
    """
    counts = torch.as_tensor(sums["counts"])
    num_predicted = int(counts.sum())
    if not num_predicted:
        raise UserError(
            "no masked frame has been predicted: the set is empty, or all of its utterances "
            "are too short for a mask"
        )
    shares = counts[counts > 0].double() / num_predicted
    entropy = -float((shares * shares.log()).sum())
    return {
        "loss": sums["loss_sum"] / num_predicted,
        "accuracy": sums["num_correct"] / num_predicted,
        "codes_in_use": len(shares),
        "code_perplexity": math.exp(entropy),
        "top_code_share": float(shares.max()),
        "masked_share": sums["num_masked"] / sums["num_valid"],
    }


def find_collapse(summary: dict[str, float | int], num_codes: int) -> str | None:
    """Say whether the targets of a run are too poor to learn from.

    Targets collapse when the features are not normalised, or nearly constant: few codes then
    stand for everything, and a high accuracy means nothing.

    Arguments
    ---------
    summary : dict
        From `summarise`.
    num_codes : int
        Number of codes V of the quantizer.

    Returns
    -------
    str or None
        One line for the log; None if the targets look healthy.

    Example
    -------
    >>> find_collapse({"top_code_share": 0.02, "code_perplexity": 2000.0}, 8192)
    >>> find_collapse({"top_code_share": 0.2, "code_perplexity": 41.3}, 8192)[:26]
    'targets have collapsed: th'
    """
    perplexity, top = summary["code_perplexity"], summary["top_code_share"]
    # Log-mel features without normalisation give the commonest of 8192 codes about 20 %; with it,
    # 2 %. In a small codebook any code is common.
    if not top > max(0.15, 8 / num_codes):
        return None
    return (
        f"targets have collapsed: the commonest code is {top:.0%} of them, the perplexity of the "
        f"{num_codes} codes {perplexity:.1f}: check the normalisation and the audio"
    )

"""What pretraining by wav2vec 2.0 measures: whether it learns, or its targets have collapsed."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from speechbrain_pom.objectives.wav2vec2.quantizer import perplexities
from speechbrain_pom.runs.metrics import Metric
from speechbrain_pom.utils.errors import UserError

_CODES = {"panel": "Codes", "parts": ("valid",), "axis": "log", "digits": 0, "summary": "last"}


def metrics_of(groups: int) -> tuple[Metric, ...]:
    """The metrics, with those of each group of codes.

    >>> [metric.name for metric in metrics_of(1)][-3:]
    ['codes_in_use_1', 'code_perplexity_1', 'soft_perplexity_1']
    """
    of_groups = [
        Metric(f"{name}_{group}", **_CODES)
        for group in range(1, groups + 1)
        for name in ("codes_in_use", "code_perplexity", "soft_perplexity")
    ]
    return (
        Metric("loss", "nats", label="loss per masked frame", better="lower", panel="Loss"),
        Metric("contrastive_loss", "nats", panel="Loss", summary="last"),
        Metric("diversity_loss", panel="Diversity loss", axis="zero", summary="last"),
        Metric(
            "accuracy",
            "share",
            label="contrastive accuracy",
            better="higher",
            panel="Contrast",
            compared_with="dropped_negatives",
        ),
        Metric(
            "dropped_negatives",
            "share",
            label="negatives with the target's code",
            panel="Contrast",
            parts=("valid",),
        ),
        Metric("masked_share", "share", label="masked frames"),
        Metric("gumbel_temperature", parts=("train",), summary="none"),
        *of_groups,
    )


def summarise(sums: Mapping[str, float | torch.Tensor], groups: int) -> dict[str, float | int]:
    """The metrics of all masked frames together, however they were cut into batches.

    Arguments
    ---------
    sums : mapping of str to float or torch.Tensor
        ``loss_sum``, ``contrastive_sum`` and ``diversity_sum`` (over masked frames),
        ``num_correct``, ``num_negatives``, ``num_dropped``, ``num_masked``, ``num_valid`` (frames
        without padding), ``temperature_sum`` (over masked frames; 0 in validation), ``counts``
        and ``soft_counts`` (G * V, how often each code was chosen, and the sum of its softmax).
    groups : int
        G.

    Returns
    -------
    dict
        ``loss`` (nats per masked frame: contrast and weighted diversity), ``contrastive_loss``,
        ``diversity_loss``, ``accuracy``, ``dropped_negatives`` (share that had the code of the
        target), ``masked_share``, ``gumbel_temperature``; and for each group, counted from 1,
        ``codes_in_use_1`` (distinct codes), ``code_perplexity_1`` (exponential of the entropy of
        the codes) and ``soft_perplexity_1`` (of the mean softmax).

    Raises
    ------
    UserError
        If no frame was masked: there is nothing to be said about it.

    Example
    -------
    >>> names = ["loss_sum", "contrastive_sum", "diversity_sum", "num_correct", "num_negatives"]
    >>> names += ["num_dropped", "num_masked", "num_valid", "temperature_sum"]
    >>> sums = dict.fromkeys(names, 4.0)
    >>> sums |= {"counts": torch.tensor([2, 2]), "soft_counts": torch.tensor([2.0, 2.0])}
    >>> summary = summarise(sums, groups=1)
    >>> summary["loss"], summary["codes_in_use_1"], round(summary["code_perplexity_1"], 3)
    (1.0, 2, 2.0)
    """
    num_masked = float(sums["num_masked"])
    if not num_masked:
        raise UserError(
            "no frame has been masked: the set is empty, or all of its utterances are too short"
        )
    counts, soft = (
        torch.as_tensor(sums[name]).double().view(groups, -1) for name in ("counts", "soft_counts")
    )
    hard = perplexities(counts / num_masked)
    soft = perplexities(soft / num_masked)
    in_use = (counts > 0).sum(1)
    of_groups = {}
    for group in range(groups):
        of_groups[f"codes_in_use_{group + 1}"] = int(in_use[group])
        of_groups[f"code_perplexity_{group + 1}"] = float(hard[group])
        of_groups[f"soft_perplexity_{group + 1}"] = float(soft[group])
    temperature = float(sums["temperature_sum"]) / num_masked
    return {
        "loss": float(sums["loss_sum"]) / num_masked,
        "contrastive_loss": float(sums["contrastive_sum"]) / num_masked,
        "diversity_loss": float(sums["diversity_sum"]) / num_masked,
        "accuracy": float(sums["num_correct"]) / num_masked,
        "dropped_negatives": float(sums["num_dropped"]) / float(sums["num_negatives"]),
        "masked_share": num_masked / float(sums["num_valid"]),
        **({"gumbel_temperature": temperature} if temperature else {}),
        **of_groups,
    }


def find_collapse(summary: Mapping[str, float], groups: int, num_codes: int) -> str | None:
    """Say whether the targets of a run are too poor to learn from.

    Negatives that have the code of the target are left out of the loss. If all frames have the
    same code, none is left: the loss is then 0 and the accuracy 100 %.

    Arguments
    ---------
    summary : mapping
        From `summarise`.
    groups : int
        G.
    num_codes : int
        V, in each group.

    Returns
    -------
    str or None
        One line for the log; None if the targets look healthy.

    Example
    -------
    >>> healthy = {"dropped_negatives": 0.03, "code_perplexity_1": 200.0}
    >>> find_collapse(healthy, groups=1, num_codes=320)
    >>> find_collapse({**healthy, "dropped_negatives": 1.0}, groups=1, num_codes=320)[:26]
    'targets have collapsed: 10'
    """
    dropped = summary["dropped_negatives"]
    found = [summary[f"code_perplexity_{group + 1}"] for group in range(groups)]
    # Healthy runs drop a few per cent. One group alone may collapse, and the other still tell
    # frames apart.
    if dropped <= 0.5 and min(found) >= max(1.5, num_codes / 100):
        return None
    return (
        f"targets have collapsed: {dropped:.0%} of the negatives have the codes of the target and "
        f"do not count, the perplexities of the {groups} groups of {num_codes} codes are "
        f"{', '.join(f'{one:.1f}' for one in found)}: loss and accuracy mean nothing; raise "
        "diversity_weight, or check the audio"
    )

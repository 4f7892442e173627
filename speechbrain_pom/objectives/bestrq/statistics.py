"""Figures that show whether a BEST-RQ run learns, or its targets have collapsed."""

from __future__ import annotations

import math

import torch

from speechbrain_pom.utils.errors import UserError


class CodeStatistics:
    """Loss, accuracy and use of the codes over any number of batches and ranks.

    Everything is a sum over predicted encoder frames, so that the figures do not depend on how
    the frames were cut into batches.

    Arguments
    ---------
    num_codes : int
        Number of codes V of the quantizer.

    Example
    -------
    >>> statistics = CodeStatistics(num_codes=4)
    >>> targets = torch.tensor([0, 0, 3, 1])
    >>> logits = torch.eye(4)[targets]
    >>> statistics.update(logits, targets, loss_sum=2.0)
    >>> statistics.update_frames(num_masked=16, num_valid=40)
    >>> summary = statistics.summary()
    >>> summary["loss"], summary["accuracy"], summary["codes_in_use"], summary["masked_share"]
    (0.5, 1.0, 3, 0.4)
    """

    def __init__(self, num_codes: int):
        self.num_codes = num_codes
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self.counts = torch.zeros(self.num_codes, dtype=torch.int64)
        self.loss_sum = 0.0
        self.num_correct = 0
        self.num_masked = 0
        self.num_valid = 0

    def update(
        self,
        logits_or_predicted: torch.Tensor,
        targets: torch.Tensor,
        loss_sum: float | torch.Tensor,
    ) -> None:
        """Add the predicted frames of a batch.

        Arguments
        ---------
        logits_or_predicted : torch.Tensor
            (N, V) logits, or (N,) predicted codes.
        targets : torch.Tensor
            (N,) codes of the predicted frames; N may be 0.
        loss_sum : float or torch.Tensor
            Sum (not mean) of the cross-entropy over the N frames.
        """
        predicted = logits_or_predicted
        if predicted.dim() == 2:
            predicted = predicted.argmax(dim=-1)
        self.counts += torch.bincount(targets, minlength=self.num_codes).cpu()
        self.num_correct += int((predicted == targets).sum())
        self.loss_sum += float(loss_sum)

    def update_frames(self, num_masked: int, num_valid: int) -> None:
        """Add the feature frames of a batch, without padding.

        Arguments
        ---------
        num_masked : int
            Masked frames.
        num_valid : int
            Valid frames, masked or not.
        """
        self.num_masked += int(num_masked)
        self.num_valid += int(num_valid)

    def all_reduce(self) -> None:
        """Add up the statistics of all ranks, in place; nothing to do in a single process.

        A collective call: every rank must make it, with or without frames of its own.
        """
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        device = "cuda" if "nccl" in torch.distributed.get_backend() else "cpu"
        scalars = [self.loss_sum, self.num_correct, self.num_masked, self.num_valid]
        # float64 holds counts exactly up to 2**53.
        sums = torch.cat([torch.tensor(scalars, dtype=torch.float64), self.counts.double()])
        sums = sums.to(device)
        torch.distributed.all_reduce(sums)
        self.loss_sum, *counted = sums[:4].tolist()
        self.num_correct, self.num_masked, self.num_valid = (int(count) for count in counted)
        self.counts = sums[4:].cpu().long()

    def state_dict(self) -> dict:
        """Return the sums so far, as JSON takes them."""
        names = ("loss_sum", "num_correct", "num_masked", "num_valid")
        return {"counts": self.counts.tolist(), **{name: getattr(self, name) for name in names}}

    def load_state_dict(self, state: dict) -> None:
        """Continue from what `state_dict` gave."""
        self.__dict__.update(state, counts=torch.tensor(state["counts"]))

    def summary(self) -> dict[str, float | int]:
        """Return the figures of all frames so far.

        Returns
        -------
        dict
            ``loss`` (mean cross-entropy per predicted frame, nats), ``accuracy``,
            ``codes_in_use`` (distinct targets), ``code_perplexity`` (exponential of the entropy
            of the targets), ``top_code_share`` (share of the commonest target: the accuracy of
            always guessing it), ``masked_share`` (masked feature frames / valid ones; where
            `update_frames` has counted them).
            A loss that is not finite is shown as it is.

        Raises
        ------
        ValueError
            If no frame has been predicted: there is nothing to be said about it.
        """
        num_predicted = int(self.counts.sum())
        if not num_predicted:
            raise UserError(
                "no masked frame has been predicted: the set is empty, or all of its utterances "
                "are too short for a mask"
            )
        shares = self.counts[self.counts > 0].double() / num_predicted
        entropy = -float((shares * shares.log()).sum())
        summary = {
            "loss": self.loss_sum / num_predicted,
            "accuracy": self.num_correct / num_predicted,
            "codes_in_use": len(shares),
            "code_perplexity": math.exp(entropy),
            "top_code_share": float(shares.max()),
        }
        if self.num_valid:
            summary["masked_share"] = self.num_masked / self.num_valid
        return summary


def find_collapse(summary: dict[str, float | int], num_codes: int) -> str | None:
    """Say whether the targets of a run are too poor to learn from.

    Targets collapse when the features are not normalised, or nearly constant: few codes then
    stand for everything, and a high accuracy means nothing.

    Arguments
    ---------
    summary : dict
        From `CodeStatistics.summary`.
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

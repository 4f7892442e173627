"""Optimizer steps that are skipped, because their gradient is not finite."""

import torch
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)


class SkippedSteps:
    """Names the utterances of each skipped step, and ends a run that has too many in a row.

    Arguments
    ---------
    patience : int
        More skipped steps than these in a row are an error.
    """

    def __init__(self, patience: int):
        self.patience = patience
        self.in_a_row = 0

    def reset(self) -> None:
        """A step was taken."""
        self.in_a_row = 0

    def add(self, grad_norm: float, ids: list[str], place: str) -> None:
        """Count a skipped step, and name the utterances of all processes; a collective call.

        Raises
        ------
        RuntimeError
            If there were more than `patience` in a row.
        """
        self.in_a_row += 1
        named = " ".join(_of_all_processes(ids))
        logger.warning(
            "Gradient norm %s in %s: step skipped. Utterances: %s", grad_norm, place, named
        )
        if self.in_a_row > self.patience:
            raise RuntimeError(
                f"{self.in_a_row} steps in a row had gradients that are not finite; the weights "
                "are those of the last good step. Look at the utterances named above, or lower "
                "the learning rate"
            )


def _of_all_processes(ids):
    if not torch.distributed.is_initialized():
        return ids
    gathered = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, ids)
    return [key for part in gathered for key in part]

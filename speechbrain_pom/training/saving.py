"""Which checkpoints a run saves, and which of them it keeps."""

import logging

from speechbrain.core import INTRA_EPOCH_CKPT_FLAG
from speechbrain.utils.checkpoints import Checkpointer


def save_after_epoch(
    checkpointer: Checkpointer, meta: dict, num_to_keep: int, best_by: dict[str, str]
) -> None:
    """Save at the end of an epoch; keep the newest checkpoint and the best ones.

    `best_by` names the metric among the `meta` that tells the best ones: `{"min_key": "loss"}`.
    """
    checkpointer.save_and_keep_only(
        meta=meta,
        num_to_keep=num_to_keep,
        importance_keys=[],  # a new list: SpeechBrain appends to it, and to its default for ever
        **{f"{order}s": [name] for order, name in best_by.items()},
    )


def save_within_epoch(checkpointer: Checkpointer, meta: dict) -> None:
    """Save between two optimizer steps; of these checkpoints only the newest is kept."""
    checkpointer.save_and_keep_only(
        meta={INTRA_EPOCH_CKPT_FLAG: True, **meta},
        end_of_epoch=False,
        num_to_keep=1,
        ckpt_predicate=lambda checkpoint: INTRA_EPOCH_CKPT_FLAG in checkpoint.meta,
        verbosity=logging.DEBUG,
        importance_keys=[],  # a new list, as above
    )

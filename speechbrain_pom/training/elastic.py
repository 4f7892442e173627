"""Runs whose number of processes may change: a batch is known by its number over all of them."""

from pathlib import Path

import yaml

from speechbrain_pom.utils.errors import UserError

_KEY = "batches_of_all"


def batch_number(step: int, rank: int, world_size: int) -> int:
    """The number of a batch in its epoch over all processes, from 1.

    >>> [batch_number(step, rank, 2) for step in (1, 2) for rank in (0, 1)]
    [1, 2, 3, 4]
    """
    return (step - 1) * world_size + rank + 1


def note_batches(path: str | Path, num_batches: int) -> None:
    """Add to the file of a Brain how many batches of the epoch all processes have had."""
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(f"{_KEY}: {num_batches}\n")


def noted_batches(path: str | Path) -> int:
    """What `note_batches` wrote.

    Raises
    ------
    UserError
        If the checkpoint is of a run that was not elastic.
    """
    noted = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if _KEY not in noted:
        raise UserError(
            f"{path}: this run was begun without batches_per_step: continue it without, or choose "
            "another --output_folder"
        )
    return noted[_KEY]

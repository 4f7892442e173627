"""Sums over an epoch that all processes share, and that checkpoints keep."""

import copy
import json
from collections import defaultdict
from pathlib import Path

import torch
from speechbrain.utils.distributed import if_main_process

from speechbrain_pom.utils.errors import UserError


class EpochSums:
    """Named sums of one process; `all_reduce` makes them those of all.

    Example
    -------
    >>> sums = EpochSums()
    >>> sums.add(loss=2.0, num_batches=1)
    >>> sums.add(loss=1.0, num_batches=1)
    >>> sums.ratio("loss", "num_batches")
    1.5
    """

    def __init__(self):
        self._values = defaultdict(float)

    def add(self, **values):
        """Add to the sums, by name."""
        for name, value in values.items():
            self._values[name] += float(value)

    def __getitem__(self, name):
        return self._values.get(name, 0.0)

    def ratio(self, numerator, denominator):
        """One sum over another.

        Arguments
        ---------
        numerator, denominator : str
            Names of sums.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            Over zero: there is no mean of nothing.
        """
        if not self[denominator]:
            raise UserError(f"no mean of {numerator}: the sum of {denominator} is 0 in this stage")
        return self[numerator] / self[denominator]

    def reset(self):
        """Forget everything."""
        self._values.clear()

    def state_dict(self):
        """The sums, as JSON takes them."""
        return dict(self._values)

    def load_state_dict(self, state):
        """Take over what `state_dict` gave."""
        self._values = defaultdict(float, state)

    def all_reduce(self):
        """Add up the sums of all processes, in place; a collective call."""
        if not torch.distributed.is_initialized():
            return
        gathered = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, self.state_dict())
        self.reset()
        for values in gathered:
            self.add(**values)


def keep_in_checkpoints(checkpointer, name, sums):
    """Let checkpoints keep sums: what all processes had together, resumed by the main one.

    Arguments
    ---------
    checkpointer : speechbrain.utils.checkpoints.Checkpointer
    name : str
        Of the recoverable.
    sums : object
        With `all_reduce`, `reset`, `state_dict` (for JSON) and `load_state_dict`.
    """
    checkpointer.add_recoverable(
        name, sums, custom_save_hook=_save_total, custom_load_hook=_load_on_main
    )


def _save_total(sums, path):
    total = copy.deepcopy(sums)
    total.all_reduce()
    if if_main_process():
        Path(path).write_text(json.dumps(total.state_dict()), encoding="utf-8")


def _load_on_main(sums, path, end_of_epoch):
    sums.reset()
    if if_main_process():  # the others start from zero, so that the total is right
        sums.load_state_dict(json.loads(Path(path).read_text(encoding="utf-8")))

"""Sums over an epoch that all processes share, and that checkpoints keep."""

import copy
import json
from pathlib import Path

import torch
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.distributed import if_main_process

from speechbrain_pom.utils.errors import UserError


class EpochSums:
    """Named sums of one process; `all_reduce` makes them those of all.

    A sum is a number, or a vector such as the counts of a histogram: integers, or float64.

    Example
    -------
    >>> sums = EpochSums()
    >>> sums.add(loss=2.0, num_batches=1, counts=torch.tensor([1, 0]))
    >>> sums.add(loss=1.0, num_batches=1, counts=torch.tensor([0, 3]))
    >>> sums.ratio("loss", "num_batches"), sums["counts"], sums["unknown"]
    (1.5, tensor([1, 3]), 0.0)
    """

    def __init__(self) -> None:
        self._values: dict[str, float | torch.Tensor] = {}

    def add(self, **values: float | torch.Tensor) -> None:
        """Add to the sums, by name."""
        for name, value in values.items():
            is_vector = isinstance(value, torch.Tensor) and value.dim() > 0
            value = _copy_of(value) if is_vector else float(value)
            self._values[name] = self._values[name] + value if name in self._values else value

    def __getitem__(self, name: str) -> float | torch.Tensor:
        return self._values.get(name, 0.0)

    def ratio(self, numerator: str, denominator: str) -> float:
        """One sum over another; a `UserError` over zero, as there is no mean of nothing."""
        if not self[denominator]:
            raise UserError(f"no mean of {numerator}: the sum of {denominator} is 0 in this stage")
        return self[numerator] / self[denominator]

    def reset(self) -> None:
        """Forget everything."""
        self._values.clear()

    def state_dict(self) -> dict[str, float | list]:
        """The sums, as JSON takes them."""
        return {
            name: value.tolist() if isinstance(value, torch.Tensor) else value
            for name, value in self._values.items()
        }

    def load_state_dict(self, state: dict[str, float | list]) -> None:
        """Take over what `state_dict` gave."""
        self.reset()
        self._add_state(state)

    def all_reduce(self) -> None:
        """Add up the sums of all processes, in place; a collective call."""
        if not torch.distributed.is_initialized():
            return
        gathered = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, self.state_dict())
        self.reset()
        for state in gathered:
            self._add_state(state)

    def _add_state(self, state):
        vectors = {name: _as_vector(v) for name, v in state.items() if isinstance(v, list)}
        self.add(**{**state, **vectors})


def _as_vector(values):
    is_float = any(isinstance(value, float) for value in values)
    return torch.tensor(values, dtype=torch.float64 if is_float else None)


def _copy_of(vector):
    vector = vector.detach().cpu()
    return vector.double() if vector.is_floating_point() else vector.clone()


def keep_in_checkpoints(checkpointer: Checkpointer, name: str, sums: EpochSums) -> None:
    """Let checkpoints keep sums: what all processes had together, resumed by the main one."""
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

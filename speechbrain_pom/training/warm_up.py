"""A warm-up of learning rates that another schedule anneals between epochs."""

from collections.abc import Mapping

from torch.optim import Optimizer

from speechbrain_pom.utils.errors import UserError


class LinearWarmUp:
    """Learning rates that rise linearly over the first steps, to what their schedules say.

    Arguments
    ---------
    n_warmup_steps : int
        The n-th step takes n / n_warmup_steps of the rate. 0: no warm-up.

    Raises
    ------
    UserError
        If that is no number of steps.

    Example
    -------
    >>> import torch
    >>> optimizer = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.1)
    >>> warm_up = LinearWarmUp(n_warmup_steps=4)
    >>> for num_steps in range(6):
    ...     warm_up.set_rates(num_steps, {"head": optimizer}, {"head": 0.1})
    ...     print(optimizer.param_groups[0]["lr"])
    0.025
    0.05
    0.07500000000000001
    0.1
    0.1
    0.1
    """

    def __init__(self, n_warmup_steps: int) -> None:
        is_whole = isinstance(n_warmup_steps, int) and not isinstance(n_warmup_steps, bool)
        if not is_whole or n_warmup_steps < 0:
            raise UserError(
                f"n_warmup_steps is {n_warmup_steps}: give a number of steps, or 0 for no warm-up"
            )
        self.n_warmup_steps = n_warmup_steps

    def set_rates(
        self, num_steps: int, optimizers: Mapping[str, Optimizer], rates: Mapping[str, float]
    ) -> None:
        """Before the step that follows `num_steps` others: the rate of each optimizer.

        After the warm-up the optimizers keep the rates that they have.
        """
        if num_steps >= self.n_warmup_steps:
            return
        for name, optimizer in optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rates[name] * ((num_steps + 1) / self.n_warmup_steps)

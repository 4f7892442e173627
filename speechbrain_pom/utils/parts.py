"""A part of a list of work: the I-th of N, as a command line or a batch system says it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from speechbrain_pom.utils.errors import UserError

Item = TypeVar("Item")

# Of a batch system: where the index of this job is, of the first one, and their number.
_ARRAYS = {
    "Slurm": ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"),
    "AWS Batch": ("AWS_BATCH_JOB_ARRAY_INDEX", None, "AWS_BATCH_JOB_ARRAY_SIZE"),
    "Kubernetes": ("JOB_COMPLETION_INDEX", None, "JOB_COMPLETIONS"),
}


class Part(NamedTuple):
    """One of several parts of a list.

    Arguments
    ---------
    number : int
        From 1.
    count : int
        How many parts there are.
    """

    number: int = 1
    count: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def name(self) -> str:
        """For names of files.

        >>> Part(3, 64).name
        'part-00003-of-00064'
        """
        return f"part-{self.number:05d}-of-{self.count:05d}"

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items of this part: every N-th one, so that parts take equally long.

        >>> [Part(number, 3).of("abcde") for number in (1, 2, 3)]
        ['ad', 'be', 'c']
        """
        return items[self.number - 1 :: self.count]


WHOLE = Part()
"""The only part of a list that is not divided."""


def parse_part(text: str, environment: Mapping[str, str] | None = None) -> Part:
    """Take `I/N` apart; `auto` and `auto/N` take I, and N, from the batch system.

    Slurm's job arrays, AWS Batch's array jobs and Kubernetes' indexed jobs are known; of Kubernetes
    N must be given, as its jobs are not told.

    Raises
    ------
    UserError
        If there is no such part, or no batch system says which one it is.

    Example
    -------
    >>> parse_part("3/64")
    Part(number=3, count=64)
    >>> parse_part("auto/8", {"JOB_COMPLETION_INDEX": "0"})
    Part(number=1, count=8)
    """
    given = re.fullmatch(r"(auto|[0-9]+)(?:/([0-9]+))?", text)
    if given is None or (given[1] != "auto" and given[2] is None):
        raise UserError(f"--part {text}: give I/N such as 3/64, or auto in a job array")
    count = given[2] and int(given[2])
    if given[1] == "auto":
        number, count = _from_environment(text, os.environ if environment is None else environment)
    else:
        number = int(given[1])
    if not 1 <= number <= count:
        raise UserError(f"--part {text}: part {number} of {count}: parts count from 1 to N")
    return Part(number, count)


def _from_environment(text, environment):
    for index_name, first_name, count_name in _ARRAYS.values():
        if index_name not in environment:
            continue
        number = int(environment[index_name]) - int(environment.get(first_name, 0)) + 1
        count = text.partition("/")[2] or environment.get(count_name)
        if count is None:
            raise UserError(f"--part {text}: {count_name} is not set: give auto/N, with the number")
        return number, int(count)
    names = ", ".join(names[0] for names in _ARRAYS.values())
    raise UserError(f"--part {text}: none of {names} is set: give I/N, or start a job array")

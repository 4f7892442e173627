"""Errors of the user: one clear line and exit code 2, before training starts."""

import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

logger = logging.getLogger(__name__)
_undone_if_refused: list[Callable[[], None]] = []


class UserError(ValueError):
    """A call that cannot work as given; its message quotes the value and says what to do.

    Example
    -------
    >>> raise UserError("no such experiment file: 'hparams/pmo.yaml'")
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: no such experiment file: 'hparams/pmo.yaml'
    """


def one_line(error: BaseException) -> str:
    """The message of an exception in one line, its type's name if it has none.

    Several arguments, as hyperpyyaml's errors have, are joined with colons.

    Example
    -------
    >>> one_line(TypeError("Invalid argument to class Linear", "missing 'in_features'"))
    "Invalid argument to class Linear: missing 'in_features'"
    >>> one_line(AssertionError())
    'AssertionError'
    """
    plain = type(error).__str__ in (BaseException.__str__, KeyError.__str__)
    message = ": ".join(str(part).rstrip(" :") for part in error.args) if plain else str(error)
    return " ".join(message.split()) or type(error).__name__


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no room: on the disk, in a quota, or for such a file.

    Example
    -------
    >>> is_disk_full(OSError(errno.ENOSPC, "No space left on device"))
    True
    >>> is_disk_full(PermissionError(errno.EACCES, "Permission denied"))
    False
    """
    if isinstance(error, OSError):
        return error.errno in _FULL
    return "No space left on device" in str(error)  # of safetensors


def undo_if_refused(undo: Callable[[], None]) -> None:
    """Have a function called if the call is found to be a bad one within `exit_on_user_error`.

    Example
    -------
    >>> with exit_on_user_error():
    ...     undo_if_refused(lambda: print("as it was"))
    """
    _undone_if_refused.append(undo)


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Context manager (or decorator): a bad call ends the program with one line and code 2.

    It surrounds the preparation of a recipe, and the whole of a command-line tool. Any other
    exception, `ValueError` included, is an error of the program and keeps its traceback; a full
    disk is one line and code 1. Under torchrun each process exits and only the first one prints.
    The traceback of a bad call goes to the debug log.

    Example
    -------
    >>> with exit_on_user_error():
    ...     print("preparation")
    preparation
    """
    try:
        yield
    except UserError as error:
        for undo in reversed(_undone_if_refused):
            undo()
        _print_error(one_line(error))
        raise SystemExit(2) from error
    except OSError as error:
        if not is_disk_full(error):
            raise
        place = f"'{error.filename}' cannot be written" if error.filename else one_line(error)
        _print_error(f"disk full: {place}: make room, or choose a folder on another disk")
        raise SystemExit(1) from error
    finally:
        _undone_if_refused.clear()


def _print_error(sentence):
    if os.environ.get("RANK", "0") == "0":
        print(f"error: {sentence}", file=sys.stderr, flush=True)
    logger.debug("the call was refused", exc_info=True)

"""Loggers of others that warn about packages which have nothing to do with what is done."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_warnings_of(name: str) -> Iterator[None]:
    """Context manager: only errors of this logger are logged.

    It is no level of the logger, since SpeechBrain sets that of each where it is made.

    Example
    -------
    >>> with without_warnings_of("speechbrain.utils.train_logger"):
    ...     import speechbrain.utils.train_logger
    """
    logger = logging.getLogger(name)
    logger.addFilter(_is_error)
    try:
        yield
    finally:
        logger.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR

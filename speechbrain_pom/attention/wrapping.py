"""How SpeechBrain's constructors are wrapped: their arguments by name, and values for a while."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# The spec for the encoder inside of a class that is being built with the stand-in.
encoder_spec = ContextVar("encoder_spec", default=None)


def bound_init(
    wrap: Callable[[Callable, object, inspect.BoundArguments], None],
) -> Callable[[Callable], Callable]:
    """Make a wrapper of __init__ that sees the arguments of the call by name, defaults included.

    `wrap(original, self, call)` calls `original(*call.args, **call.kwargs)` itself, and
    `call.arguments` holds what those two are made of.

    >>> @bound_init
    ... def doubled(original, self, call):
    ...     call.arguments["size"] *= 2
    ...     original(*call.args, **call.kwargs)
    >>> class Box:
    ...     def __init__(self, size=3):
    ...         self.size = size
    >>> Box.__init__ = doubled(Box.__init__)
    >>> Box().size, Box(5).size
    (6, 10)
    """

    def decorate(original):
        signature = inspect.signature(original)

        @functools.wraps(original)
        def init(self, *args, **kwargs):
            call = signature.bind(self, *args, **kwargs)
            call.apply_defaults()
            wrap(original, self, call)

        return init

    return decorate


@contextmanager
def set_while(variable: ContextVar, value: object) -> Iterator[None]:
    """Context manager: a `ContextVar` has a value inside it, and its former one afterwards.

    >>> depth = ContextVar("depth", default=0)
    >>> with set_while(depth, 2):
    ...     inside = depth.get()
    >>> inside, depth.get()
    (2, 0)
    """
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)

"""Documents that are written from records."""

from collections.abc import Callable


def bring_up_to_date(document: str, update: Callable[..., bool], command: str, check: bool) -> int:
    """Write a document, or with `check` only compare it, and print what was found.

    Arguments
    ---------
    document : str
        Its name.
    update : callable
        Of `check`; writes it, or compares it, and returns whether it was up to date.
    command : str
        What writes it.
    check : bool
        Whether to leave it as it is.

    Returns
    -------
    int
        Exit code: 1 if it was compared and is out of date, else 0.

    Example
    -------
    >>> bring_up_to_date("a.md", lambda check: False, "make a", check=True)
    a.md is not what the records say: run `make a`
    1
    """
    current = update(check=check)
    if check and not current:
        print(f"{document} is not what the records say: run `{command}`")
        return 1
    print(f"{document}: {'nothing to change' if current else 'written'}")
    return 0

"""Whether a graph of any batch and length is being exported."""

import torch


def is_exporting() -> bool:
    """Whether `torch.export` runs this code, and not `torch.compile`.

    Dynamo takes `torch.compiler.is_exporting()` for true in whatever it compiles, which would take
    compiled models off their fast paths. Exports are made without it (`strict=False`).

    >>> is_exporting()
    False
    """
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()

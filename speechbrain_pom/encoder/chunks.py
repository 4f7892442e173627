"""Whether a saved model was trained with dynamic chunks, as its hparams file says."""

from __future__ import annotations

from collections.abc import Mapping

# Keys of a recipe's YAML that say which chunks the batches of training had; in an exported folder,
# and for a loaded encoder, they are one mapping.
TRAINED = "trained_with_chunks"
KEYS = (
    "chunkwise_prob",
    "chunk_size_range",
    "limited_left_context_prob",
    "left_context_range",
)


def trained_chunks(options: Mapping) -> dict | None:
    """The chunks that the last training of a model had, from the tree of its hparams file.

    Arguments
    ---------
    options : dict
        The contents of the hyperparams.yaml of a run or of an export.

    Returns
    -------
    dict or None
        `chunkwise_prob`, `chunk_size_range` (frames), `limited_left_context_prob` and
        `left_context_range` (chunks); None for a model that has only seen the full context.

    Example
    -------
    >>> trained_chunks({"streaming": False, "chunkwise_prob": 0.6})
    >>> trained_chunks({"streaming": True, "chunkwise_prob": 0.6, "chunk_size_range": [8, 32]})
    {'chunkwise_prob': 0.6, 'chunk_size_range': [8, 32]}
    """
    found = options.get(TRAINED)
    if found is None and options.get("streaming") is True:
        found = options
    if not isinstance(found, Mapping) or found.get("chunkwise_prob") == 0:
        return None
    return {key: _plain(found[key]) for key in KEYS if key in found}


def _plain(value):
    return [int(number) for number in value] if isinstance(value, (list, tuple)) else float(value)


def describe_training(chunks: Mapping) -> str:
    """What `trained_chunks` has found, in words.

    >>> describe_training({"chunkwise_prob": 0.6, "chunk_size_range": [8, 32]})
    '60 % of the batches in chunks of 8 to 32 frames'
    >>> limited = {"limited_left_context_prob": 0.75, "left_context_range": [2, 32]}
    >>> describe_training({"chunkwise_prob": 1.0, "chunk_size_range": [8, 8], **limited})
    '100 % of the batches in chunks of 8 frames, 75 % of these with 2 to 32 chunks to the left'
    """
    text = f"{100 * chunks['chunkwise_prob']:g} % of the batches in chunks"
    if "chunk_size_range" in chunks:
        text += f" of {_span(chunks['chunk_size_range'])} frames"
    share = chunks.get("limited_left_context_prob", 0)
    if share > 0:
        text += f", {100 * share:g} % of these with {_span(chunks['left_context_range'])} chunks"
        text += " to the left"
    return text


def _span(ends):
    return " to ".join(dict.fromkeys(map(str, ends)))

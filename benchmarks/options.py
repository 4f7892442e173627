"""Options that several benchmarks have, as types for argparse."""

import argparse


def parse_lengths(text):
    """Lengths of audio in whole seconds: "10..80", "10..80:5" (in steps of 10 or 5) or "10,40,80".

    Raises
    ------
    argparse.ArgumentTypeError
        With the text, for anything else.
    """
    try:
        if ".." in text:
            first, rest = text.split("..")
            last, _, step = rest.partition(":")
            lengths = list(range(int(first), int(last) + 1, int(step or 10)))
        else:
            lengths = [int(part) for part in text.split(",")]
    except ValueError:
        lengths = []
    if not lengths or min(lengths) < 1 or sorted(set(lengths)) != lengths:
        raise argparse.ArgumentTypeError(
            f"{text!r} are no lengths: give a range like 10..80 or 10..80:5, or a list like "
            "10,40,80, in whole numbers from 1 on, the shortest first"
        )
    return lengths


def choices_of(*known):
    """A type for argparse: a list with commas, of known words only."""

    def parse(text):
        words = text.split(",")
        unknown = [word for word in words if word not in known]
        if unknown or len(set(words)) != len(words):
            raise argparse.ArgumentTypeError(
                f"{text!r}: give one or more of {', '.join(known)}, once each, with commas"
            )
        return words

    return parse


def whole_number(text):
    """A type for argparse: a whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number of at least 1")
    return int(text)

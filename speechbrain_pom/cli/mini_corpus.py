"""`mini-corpus`: make a small synthetic corpus in LibriSpeech's layout."""

import argparse

from speechbrain_pom.data.mini_corpus.audio import SAMPLE_RATE
from speechbrain_pom.data.mini_corpus.files import read_manifest
from speechbrain_pom.data.mini_corpus.make import DEFAULT_DURATION_MIN, make_mini_corpus
from speechbrain_pom.data.mini_corpus.plan import CORPUS_VERSION


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mini-corpus` to a parser."""
    parser.description = (
        "Make a small synthetic speech corpus in LibriSpeech's layout (train-clean-100, dev-clean, "
        "test-clean, test-other), offline and reproducibly, to try the recipes with. A corpus that "
        "is already there is checked, left alone if intact, and made again if damaged."
    )
    parser.add_argument("out", metavar="OUT", help="folder of the corpus")
    parser.add_argument(
        "--minutes",
        type=float,
        default=DEFAULT_DURATION_MIN,
        metavar="M",
        help="minutes of audio in all splits together, >= 0.5 (default: %(default)g)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of sentences, speakers and noise, >= 0 (default: %(default)s)",
    )
    parser.add_argument(
        "--num_workers",
        type=int,
        metavar="N",
        help="processes; the audio does not depend on it (default: 1 up to an hour of audio, then "
        "one per CPU core)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace a mini corpus in OUT that has other options or additional files; a folder "
        "that is no mini corpus is never touched",
    )


def run(args: argparse.Namespace) -> int:
    """Make the corpus and print what it holds; the exit code."""
    out = make_mini_corpus(
        args.out, args.minutes, args.seed, num_workers=args.num_workers, force=args.force
    )
    print(f"mini corpus (synthetic speech, version {CORPUS_VERSION}, seed {args.seed}): {out}")
    for split, totals in read_manifest(out)["splits"].items():
        minutes = totals["num_samples"] / SAMPLE_RATE / 60
        print(
            f"  {split:<16} {totals['num_speakers']:4d} speakers {totals['num_utterances']:7d} "
            f"utterances {minutes:9.2f} min"
        )
    return 0

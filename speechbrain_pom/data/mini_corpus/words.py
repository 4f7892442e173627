"""Single words by the speakers of the mini corpus: the demo data of a probe.

A sentence has too many words for the mean over its frames to tell which ones. Speakers, splits and
layout are those of the demo's mini corpus; the words are of its vocabulary.
"""

from pathlib import Path

from speechbrain.utils.logger import get_logger

from speechbrain_pom.data.mini_corpus.files import only_writer, verify_mini_corpus
from speechbrain_pom.data.mini_corpus.make import demo_corpus, replace_corpus
from speechbrain_pom.data.mini_corpus.plan import PLACES, VERBS, Utterance, derive_seed, plan_corpus
from speechbrain_pom.utils.errors import UserError

logger = get_logger(__name__)

WORDS = VERBS + PLACES
REPETITIONS = 2

_VERSION = 1  # raised by every change that gives other files
_SEED = 0


def plan_words(duration_min: float = 15, repetitions: int = REPETITIONS) -> list[Utterance]:
    """List the utterances: each speaker says each word.

    >>> plan = plan_words()
    >>> len({utterance.speaker for utterance in plan}), len(plan)
    (26, 468)
    """
    sentences = plan_corpus(duration_min, _SEED)
    speakers = {utterance.speaker: utterance.snr_db for utterance in sentences}
    return [
        Utterance(
            speaker=speaker,
            index=index,
            text=WORDS[index % len(WORDS)],
            snr_db=snr_db,
            seed=derive_seed("word", _VERSION, speaker.speaker_id, index),
        )
        for speaker, snr_db in speakers.items()
        for index in range(repetitions * len(WORDS))
    ]


def mini_words(show_progress: bool = True) -> Path:
    """The words, made at their first use beside the cached mini corpus; checked at every use.

    >>> mini_words(show_progress=False).name
    'mini_words-v1'
    """
    out = demo_corpus(show_progress).with_name(f"mini_words-v{_VERSION}")
    with only_writer(out):
        try:
            verify_mini_corpus(out)
        except UserError as problem:
            if out.exists():
                logger.warning("%s: making it again", problem)
            options = {"words": WORDS, "repetitions": REPETITIONS, "seed": _SEED}
            replace_corpus(out, options, plan_words(), 1, show_progress)
    return out

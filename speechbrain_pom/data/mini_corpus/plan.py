"""What the mini corpus says, and who says it: a pure function of duration and seed.

LibriSpeech's layout and names: speakers are numbered across the splits, a chapter holds up to
`UTTERANCES_PER_CHAPTER` utterances of one speaker.
"""

import dataclasses
import hashlib
import math
import random

CORPUS_VERSION = 1
"""Raised by every change that gives other files for the same options."""

SPLIT_SHARES = {
    "train-clean-100": 0.8,
    "dev-clean": 1 / 15,
    "test-clean": 1 / 15,
    "test-other": 1 / 15,
}
"""Splits and their shares of the duration."""

TEST_OTHER_SNRS_DB = (18, 15, 12)
"""Signal-to-noise ratios of test-other, utterance by utterance in turn; the least noisy training
speakers have 40 dB, the noisiest 15 dB."""

UTTERANCES_PER_CHAPTER = 25

VERBS = ("BRING", "FIND", "MOVE", "PAINT", "WASH")
COLOURS = ("RED", "GREEN", "BLUE", "YELLOW", "BLACK", "PURPLE")
OBJECTS = ("BOX", "LAMP", "JACKET", "VIOLIN", "ZEBRA", "MELON")
PREPOSITIONS = ("UNDER", "BEHIND", "NEAR")
PLACES = ("TABLE", "WINDOW", "GARDEN", "HOUSE")
NUMBERS = ("TWO", "THREE", "FIVE", "SIX", "SEVEN", "TEN")
ADVERBS = ("QUICKLY", "NOW", "AGAIN")
VOCABULARY = frozenset(
    {"THE", "AND", *VERBS, *COLOURS, *OBJECTS, *PREPOSITIONS, *PLACES, *NUMBERS, *ADVERBS}
)
"""Every word that the corpus can contain: 35 words with all 26 letters."""

_ACCENTS = ("en-us", "en")  # eSpeak NG's American and British English
_VARIANTS = ("f1", "m1", "f2", "m2", "f3", "m3", "f4", "m4")

# Lowest and highest setting of the training speakers. `source_rate_hz` is the rate at which the
# synthesiser's 22,050 Hz are read: it scales the vocal tract (formants) and the pitch together.
_RANGES = {
    "pitch": (32, 68),
    "pitch_range": (30, 70),
    "rate_wpm": (135, 170),
    "source_rate_hz": (20800, 23400),
    "word_gap_10ms": (0, 3),
    "level_db": (-32, -20),
    "snr_db": (15, 40),
}
_HELD_OUT_INTERIOR = (0.2, 0.8)  # other speakers' part of each range
_SOURCE_RATE_STEP_HZ = 100  # keeps the resampling ratio to 16 kHz small

_SECONDS_PER_LETTER = 0.0705  # at 150 words per minute; only to plan how many utterances
_SECONDS_OF_SILENCE = 0.3


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A synthetic speaker: settings of eSpeak NG and of the simulated recording.

    `pitch` to `word_gap_10ms` are those of `espeak.synthesize`; `source_rate_hz` is the sample
    rate that its output is taken to have; `level_db` is the speech level relative to full scale;
    `snr_db` the ratio of speech to background noise.
    """

    speaker_id: int
    split: str
    sex: str
    voice: str
    pitch: int
    pitch_range: int
    rate_wpm: int
    source_rate_hz: int
    word_gap_10ms: int
    level_db: int
    snr_db: int


@dataclasses.dataclass(frozen=True)
class Utterance:
    """One sentence by one speaker; `seed` fixes everything that is random in its audio."""

    speaker: Speaker
    index: int
    text: str
    snr_db: int
    seed: int

    @property
    def chapter_id(self) -> int:
        """Unique in the corpus: the speaker's number and three digits."""
        return self.speaker.speaker_id * 1000 + self.index // UTTERANCES_PER_CHAPTER

    @property
    def utterance_id(self) -> str:
        """SPEAKER-CHAPTER-NNNN."""
        number = self.index % UTTERANCES_PER_CHAPTER
        return f"{self.speaker.speaker_id}-{self.chapter_id}-{number:04d}"

    @property
    def chapter_folder(self) -> str:
        """SPLIT/SPEAKER/CHAPTER, relative to the corpus."""
        return f"{self.speaker.split}/{self.speaker.speaker_id}/{self.chapter_id}"

    @property
    def audio_path(self) -> str:
        """The FLAC file, relative to the corpus."""
        return f"{self.chapter_folder}/{self.utterance_id}.flac"


def plan_corpus(duration_min: float, seed: int) -> list[Utterance]:
    """List the utterances of a corpus.

    Durations are estimated from the texts, so the corpus comes out a few per cent longer or
    shorter than asked for.

    >>> plan = plan_corpus(duration_min=15, seed=0)
    >>> len({utterance.speaker.speaker_id for utterance in plan})
    26
    """
    plan = []
    for split, share in SPLIT_SHARES.items():
        split_min = duration_min * share
        # More speech is more speech of each speaker and also more speakers.
        num_speakers = max(1, round(4 * math.sqrt(split_min)))
        speakers = [_make_speaker(split, index, seed) for index in range(num_speakers)]
        utterances, remaining_s = [], 60 * split_min
        while True:
            index, speaker_index = divmod(len(utterances), num_speakers)
            utterance = _make_utterance(speakers[speaker_index], index, seed)
            duration_s = _estimate_duration(utterance)
            if utterances and remaining_s < duration_s / 2:
                break
            utterances.append(utterance)
            remaining_s -= duration_s
        plan += sorted(utterances, key=lambda utterance: utterance.audio_path)
    return plan


def make_sentence(rng: random.Random) -> str:
    """Draw a sentence of 7 to 15 words of the `VOCABULARY` from the grammar.

    >>> make_sentence(random.Random(3))
    'FIND THE BLACK ZEBRA UNDER GARDEN SIX QUICKLY'
    """
    words = _clause(rng, with_place=True)
    if rng.random() < 0.4:
        words += ["AND", *_clause(rng, with_place=rng.random() < 0.5)]
    if rng.random() < 0.6:
        adverb = rng.choice(ADVERBS)
        words = [adverb, *words] if rng.random() < 0.5 else [*words, adverb]
    return " ".join(words)


def _clause(rng, with_place):
    words = [rng.choice(VERBS), "THE", rng.choice(COLOURS), rng.choice(OBJECTS)]
    if with_place:
        words.append(rng.choice(PREPOSITIONS))
        place = rng.choice(PLACES)
        words += ["THE", place] if rng.random() < 0.3 else [place, rng.choice(NUMBERS)]
    return words


def derive_seed(*parts) -> None:
    """A 63-bit seed that depends on all parts, the same in every process and Python version.

    >>> derive_seed(0, "text", "103-103000-0000") == derive_seed(1, "text", "103-103000-0000")
    False
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _make_speaker(split, index, seed):
    split_index = list(SPLIT_SHARES).index(split)
    low, high = (0.0, 1.0) if split_index == 0 else _HELD_OUT_INTERIOR
    settings = {}
    for number, (name, (lowest, highest)) in enumerate(_RANGES.items()):
        # Additive recurrence with another irrational step for each setting: any number of
        # speakers covers the ranges evenly, and a speaker does not depend on how many there are.
        offset = random.Random(derive_seed(seed, "offset", split, name)).random()
        position = low + (high - low) * ((offset + (index + 1) * _step(number)) % 1.0)
        settings[name] = round(lowest + (highest - lowest) * position)
    settings["source_rate_hz"] -= settings["source_rate_hz"] % _SOURCE_RATE_STEP_HZ
    # Women and men alternate; each variant comes with both accents in turn.
    variant = _VARIANTS[(index + 2 * split_index) % len(_VARIANTS)]
    accent = _ACCENTS[(index // 2 + index // len(_VARIANTS)) % len(_ACCENTS)]
    return Speaker(
        speaker_id=101 + len(SPLIT_SHARES) * index + split_index,
        split=split,
        sex=variant[0].upper(),
        voice=f"{accent}+{variant}",
        **settings,
    )


def _step(number):
    """Fractional parts of the square roots of the primes 2, 3, 5, ..."""
    return math.sqrt((2, 3, 5, 7, 11, 13, 17)[number]) % 1.0


def _make_utterance(speaker, index, seed):
    key = (CORPUS_VERSION, seed, speaker.speaker_id, index)
    snr_db = speaker.snr_db
    if speaker.split == "test-other":
        snr_db = TEST_OTHER_SNRS_DB[(speaker.speaker_id // 4 + index) % len(TEST_OTHER_SNRS_DB)]
    return Utterance(
        speaker=speaker,
        index=index,
        text=make_sentence(random.Random(derive_seed("text", *key))),
        snr_db=snr_db,
        seed=derive_seed("audio", *key),
    )


def _estimate_duration(utterance):
    """Seconds, to a few per cent on average."""
    speech = _SECONDS_PER_LETTER * len(utterance.text) * 150 / utterance.speaker.rate_wpm
    return _SECONDS_OF_SILENCE + speech * 22050 / utterance.speaker.source_rate_hz

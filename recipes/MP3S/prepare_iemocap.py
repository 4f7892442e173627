"""IEMOCAP for emotion recognition: anger, happiness (with excitement), sadness, neutral.

Session k has the speakers 2k - 1 (female) and 2k (male). The test speaker is held out, the other
one of that session validates, and the eight speakers of the other sessions train: test_speaker 1
to 10 are the ten folds.
"""

import re
from pathlib import Path

from speechbrain.utils.logger import get_logger

from speechbrain_pom.data.corpora import Corpus, Entry, find_corpus, write_part
from speechbrain_pom.data.corpus_lists import read_lines
from speechbrain_pom.data.layout import list_entries
from speechbrain_pom.utils.errors import UserError

LABELS = {"ang": "ang", "hap": "hap", "exc": "hap", "sad": "sad", "neu": "neu"}
NUM_UTTERANCES = 5531
NUM_SPEAKERS = 10
SESSIONS = [f"Session{number}" for number in range(1, 6)]
# [START - END] <tab> TURN <tab> EMOTION <tab> [valence, activation, dominance]
TURN = re.compile(r"\[[\d.]+ - [\d.]+\]\t(\w+)\t(\w+)\t\[")
CORPUS = Corpus(
    "IEMOCAP", "https://sail.usc.edu/iemocap/", "Session1 to Session5 (IEMOCAP_full_release)"
)

logger = get_logger(__name__)


def prepare(data_folder, save_folder, test_speaker=1, **options):
    """Write the manifests of one fold; `options` are those of `write_part`.

    Arguments
    ---------
    data_folder, save_folder : str
    test_speaker : int
        1 to 10.

    Returns
    -------
    dict
        CSV files by part, as the key `prepare` of the recipes takes them.
    """
    if test_speaker not in range(1, NUM_SPEAKERS + 1):
        raise UserError(f"test_speaker is {test_speaker!r}: choose one of 1 to {NUM_SPEAKERS}")
    needed = [
        f"{name}/{part}" for name in SESSIONS for part in ("dialog/EmoEvaluation", "sentences/wav")
    ]
    folder = find_corpus(data_folder, CORPUS, needed)
    entries = [entry for session in SESSIONS for entry in read_session(folder, session)]
    if len(entries) != NUM_UTTERANCES:
        logger.warning(
            "IEMOCAP has %d utterances of these emotions, this folder %d",
            NUM_UTTERANCES,
            len(entries),
        )
    valid_speaker = test_speaker + 1 if test_speaker % 2 else test_speaker - 1
    held_out = {str(test_speaker): "test", str(valid_speaker): "valid"}
    parts = {"train": [], "valid": [], "test": []}
    for entry in entries:
        parts[held_out.get(entry.speaker, "train")].append(entry)
    return {
        part: write_part(part, found, folder, save_folder, need_label=True, **options)
        for part, found in parts.items()
    }


def read_session(folder, session):
    """The turns of a session that have one of the emotions."""
    entries, number = [], int(session.removeprefix("Session"))
    speakers = {"F": 2 * number - 1, "M": 2 * number}
    for item in list_entries(folder / session / "dialog/EmoEvaluation"):
        if not item.name.endswith(".txt"):
            continue
        turns = [match for match in map(TURN.match, read_lines(Path(item.path))) if match]
        if not turns:
            sentence = "has no line '[START - END] TURN EMOTION [...]': restore it"
            raise UserError(f"'{item.path}' {sentence}")
        for turn, emotion in (match.groups() for match in turns):
            dialog, _, name = turn.rpartition("_")
            if name[:1] not in speakers:
                raise UserError(f"'{item.path}': turn '{turn}' is of no speaker F or M: restore it")
            if emotion in LABELS:
                file = f"{session}/sentences/wav/{dialog}/{turn}.wav"
                entries.append(Entry(turn, file, str(speakers[name[:1]]), label=LABELS[emotion]))
    return entries

"""Buckeye for the recognition of spontaneous English: interviews with 40 speakers.

`data_folder` has the unpacked recordings, sNNMMx.wav, each with its words, sNNMMx.words, in any
subfolders. As in MP3S, speakers s36 and s37 are for validation and s38 to s40 for the test; an
utterance is a run of words without an event (`<SIL>`, `<VOCNOISE>`, `<IVER>`, ...) and without
"uh", of at least two seconds and three words. The utterances become files in `save_folder`.
"""

import os
import re
from pathlib import Path

from speechbrain.utils.logger import get_logger

from speechbrain_pom.data.corpora import Corpus, Entry, find_corpus, write_part
from speechbrain_pom.data.corpus_lists import read_lines
from speechbrain_pom.data.segments import Recording, Segment, cut_recordings
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.processes import num_processes

SPEAKERS = {"valid": ("s36", "s37"), "test": ("s38", "s39", "s40")}  # all others train
HEADER_END = "#"
LEFT_OUT = ("UH",)
CORPUS = Corpus("Buckeye", "https://buckeyecorpus.osu.edu", "sNNMMx.wav and sNNMMx.words")

logger = get_logger(__name__)


def prepare(
    data_folder,
    save_folder,
    min_duration_s=2.0,
    min_words=3,
    num_workers=None,
    show_progress=True,
    **options,
):
    """Write the utterances and a manifest for each part; `options` are those of `write_part`.

    Arguments
    ---------
    data_folder, save_folder : str
    min_duration_s : float
    min_words : int
        Runs of fewer words, or shorter ones, are no utterances.
    num_workers : int, optional
        Processes; all cores by default.
    show_progress : bool

    Returns
    -------
    dict
        CSV files by part, as the key `prepare` of the recipes takes them.
    """
    folder = find_corpus(data_folder, CORPUS, [])
    lists = sorted(
        path for path in folder.rglob("s*.words") if re.fullmatch(r"s\d{4}[ab]", path.stem)
    )
    if not lists:
        raise UserError(
            f"data folder '{folder}' has no sNNMMx.words: get {CORPUS.name} from {CORPUS.url}, "
            f"unpack it, and pass the folder with {CORPUS.layout}"
        )
    texts, recordings = {}, []
    for path in lists:
        found = dict(read_utterances(path, min_duration_s, min_words))
        texts |= {segment.name: text for segment, text in found.items()}
        recordings.append(Recording(path.with_suffix(".wav"), list(found)))
    shown = {"num_workers": num_processes(num_workers), "show_progress": show_progress}
    segments = Path(save_folder) / "segments"
    problems = cut_recordings(recordings, segments, **shown)
    parts = {part: [] for part in ("train", *SPEAKERS)}
    for recording in recordings:
        for segment in recording.segments:
            bad = problems.get(segment.name)
            file = os.path.abspath(recording.path) if bad else f"{segment.name}.flac"
            speaker = segment.name[:3]
            entry = Entry(segment.name, file, speaker, texts[segment.name], problems=bad)
            part = next((part for part, names in SPEAKERS.items() if speaker in names), "train")
            parts[part].append(entry)
    return {
        part: write_part(part, found, segments, save_folder, need_text=True, **shown, **options)
        for part, found in parts.items()
    }


def read_utterances(path, min_duration_s, min_words):
    """(Segment, text) of each utterance of a list of words, which has the end of each word."""
    words, start_s, last_s = [], 0.0, 0.0
    for end_s, word in [*read_words(path), (0.0, "<STOP>")]:
        if word[0] not in "<{" and word.upper() not in LEFT_OUT:
            start_s = start_s if words else last_s
            words.append(word.upper())
        else:
            if len(words) >= min_words and last_s - start_s >= min_duration_s:
                name = f"{path.stem}-{round(start_s * 1000):07d}-{round(last_s * 1000):07d}"
                yield Segment(name, start_s, last_s), " ".join(words)
            words = []
        last_s = end_s


def read_words(path):
    """(End in seconds, word or event) of each line below the header: `END COLOUR WORD; PHONES`.

    The corpus has lines without a word and ends that go back: they end an utterance, and the log
    says how many there are.
    """
    lines = read_lines(path)
    if HEADER_END not in lines:
        raise UserError(f"'{path}' has no line '{HEADER_END}' below its header: restore the file")
    words, num_odd = [(0.0, "<START>")], 0
    for line in lines[lines.index(HEADER_END) + 1 :]:
        found = re.match(r"\s*(\d+(?:\.\d*)?)\s+\d+\s+([^;\s]+)", line)
        if found is not None and float(found[1]) >= words[-1][0]:
            words.append((float(found[1]), found[2]))
        else:
            words.append((words[-1][0], "<ODD>"))
            num_odd += 1
    if num_odd:
        logger.info("%s: %d lines without a word or out of order end an utterance", path, num_odd)
    return words

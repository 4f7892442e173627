"""Common Voice for speech recognition in one language, such as Welsh (cy) or Basque (eu).

`data_folder` is that of the language: `cv-corpus-11.0-2022-09-21/cy`. As in MP3S, sentences keep
their case, accents and punctuation, those of fewer than three words are left out, and training has
utterances of at most 10 s. Validation and tests have all lengths.
"""

from speechbrain.utils.logger import get_logger

from speechbrain_pom.data.corpora import Corpus, Entry, find_corpus, write_part
from speechbrain_pom.data.corpus_lists import read_tsv

LISTS = {"train": "train.tsv", "valid": "dev.tsv", "test": "test.tsv"}
CORPUS = Corpus(
    "Common Voice 11.0",
    "https://commonvoice.mozilla.org/en/datasets",
    "clips/, train.tsv, dev.tsv and test.tsv of one language (cv-corpus-11.0-2022-09-21/cy)",
)

logger = get_logger(__name__)


def prepare(data_folder, save_folder, max_duration_s=10.0, min_words=3, **options):
    """Write a manifest for each of the three lists; `options` are those of `write_part`.

    Arguments
    ---------
    data_folder, save_folder : str
    max_duration_s : float
        Longer utterances of training are left out, and counted.
    min_words : int
        Sentences of fewer words are left out, and counted.

    Returns
    -------
    dict
        CSV files by part, as the key `prepare` of the recipes takes them.
    """
    folder = find_corpus(data_folder, CORPUS, ["clips", *LISTS.values()])
    paths = {}
    for part, name in LISTS.items():
        entries = read_entries(folder / name, min_words)
        longest = max_duration_s if part == "train" else None
        paths[part] = write_part(
            part, entries, folder, save_folder, need_text=True, max_duration_s=longest, **options
        )
    return paths


def read_entries(path, min_words):
    """The clips of a list, without those of too few words; a clip without a sentence is bad."""
    entries, num_short = [], 0
    for row in read_tsv(path, ("client_id", "path", "sentence")):
        num_words = len(row["sentence"].split())
        if 0 < num_words < min_words:
            num_short += 1
            continue
        utterance = row["path"].removesuffix(".mp3")
        entries.append(Entry(utterance, f"clips/{row['path']}", row["client_id"], row["sentence"]))
    if num_short:
        logger.info("%s: %d sentences of under %d words left out", path, num_short, min_words)
    return entries

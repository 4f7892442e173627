"""SLURP for intent classification: the scenario, 18 classes; train_real, devel and test.

The lists are train.jsonl (or train_real.jsonl), devel.jsonl and test.jsonl, the recordings are in
slurp_real/. They lie in one folder, or as in the repository: dataset/slurp/ and audio/slurp_real/.
"""

from speechbrain.utils.logger import get_logger

from speechbrain_pom.data.corpora import Corpus, Entry, find_corpus, find_path, write_part
from speechbrain_pom.data.corpus_lists import read_json_lines

NUM_SCENARIOS = 18
LISTS = {"train": ("train_real.jsonl", "train.jsonl"), "valid": ("devel.jsonl",)}
LISTS |= {"test": ("test.jsonl",)}
AUDIO = "slurp_real|audio/slurp_real"
CORPUS = Corpus(
    "SLURP",
    "https://github.com/pswietojanski/slurp and https://zenodo.org/record/4274930",
    "train.jsonl, devel.jsonl, test.jsonl and slurp_real/*.flac",
)

logger = get_logger(__name__)


def prepare(data_folder, save_folder, **options):
    """Write a manifest for each list; `options` are those of `write_part`.

    Returns
    -------
    dict
        CSV files by part, as the key `prepare` of the recipes takes them.
    """
    places = {
        part: "|".join(f"{folder}{name}" for folder in ("", "dataset/slurp/") for name in names)
        for part, names in LISTS.items()
    }
    folder = find_corpus(data_folder, CORPUS, [*places.values(), AUDIO])
    audio = find_path(folder, AUDIO).relative_to(folder).as_posix()
    entries = {
        part: read_entries(find_path(folder, place), audio) for part, place in places.items()
    }
    labels = {entry.label for entry in entries["train"]} - {""}
    if len(labels) != NUM_SCENARIOS:
        logger.warning("SLURP has %d scenarios, training here %d", NUM_SCENARIOS, len(labels))
    return {
        part: write_part(part, entries[part], folder, save_folder, need_label=True, **options)
        for part in LISTS
    }


def read_entries(path, audio):
    """The recordings of a list; one without a scenario is bad."""
    entries = []
    for number, row in enumerate(read_json_lines(path), start=1):
        files = [str(item.get("file") or "") for item in row.get("recordings") or []]
        if not all(files) or not files:
            problem = f"object {number} of {path.name} names no recording: restore it"
            entry = Entry(f"{path.stem}-{number}", audio, problems={"recordings": problem})
            entries.append(entry)
        text, label = str(row.get("sentence") or ""), str(row.get("scenario") or "")
        # There is no speaker in the lists, only in the metadata of some recordings.
        entries += [
            Entry(name.removesuffix(".flac"), f"{audio}/{name}", text=text, label=label)
            for name in filter(None, files)
        ]
    return entries

"""VoxCeleb1 for speaker verification: 1211 speakers train, the trials are of 40 others.

The audio is wav/SPEAKER/VIDEO/NUMBER.wav, that of training and of the test together, or each as
unpacked (vox1_dev_wav/wav, vox1_test_wav/wav). The trials are veri_test2.txt (the cleaned list), in
the folder or in meta/.
"""

from pathlib import Path

from speechbrain.utils.logger import get_logger

from speechbrain_pom.data.corpora import Corpus, Entry, find_corpus, find_path, share_of, write_part
from speechbrain_pom.data.layout import list_entries, list_subfolders
from speechbrain_pom.data.trials import read_trials, write_trials
from speechbrain_pom.utils.errors import UserError

NUM_SPEAKERS = 1211
FOLDERS = ("wav", "vox1_dev_wav/wav", "vox1_test_wav/wav")
CORPUS = Corpus(
    "VoxCeleb1",
    "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/",
    "wav/SPEAKER/VIDEO/*.wav and veri_test2.txt",
)

logger = get_logger(__name__)


def prepare(data_folder, save_folder, valid_share=0.1, trials="veri_test2.txt", **options):
    """Write the manifests and the trials; `options` are those of `write_part`.

    Arguments
    ---------
    data_folder, save_folder : str
    valid_share : float
        Of the utterances of the speakers that are not in the trials: by their names alone.
    trials : str
        Name of the list.

    Returns
    -------
    dict
        CSV files by part, and the trials, as the key `prepare` of the recipes takes them.
    """
    if not isinstance(valid_share, (int, float)) or not 0 < valid_share < 1:
        raise UserError(f"valid_share is {valid_share!r}: it must be a share, 0 < x < 1")
    place = f"{trials}|meta/{trials}"
    folder = find_corpus(data_folder, CORPUS, ["|".join(FOLDERS), place])
    pairs = read_trials(find_path(folder, place))
    tested = sorted({name for pair in pairs for name in (pair.enrolment, pair.test)})
    speakers = {name.split("/")[0] for name in tested}
    rest = [entry for entry in scan(folder) if entry.speaker not in speakers]
    valid = {entry.utterance for entry in rest if share_of(entry.utterance) < valid_share}
    parts = {
        "train": [entry for entry in rest if entry.utterance not in valid],
        "valid": [entry for entry in rest if entry.utterance in valid],
        "test": [entry_of(find_clip(folder, name)) for name in tested],
    }
    num_speakers = len({entry.speaker for entry in parts["train"]})
    if num_speakers != NUM_SPEAKERS:
        logger.warning(
            "VoxCeleb1 has %d speakers for training, this folder %d", NUM_SPEAKERS, num_speakers
        )
    unheard = {entry.speaker for entry in parts["valid"]} - {x.speaker for x in parts["train"]}
    if unheard:
        raise UserError(
            f"valid_share = {valid_share:g} leaves {len(unheard)} speakers without training "
            f"({', '.join(sorted(unheard)[:3])}): give a smaller one, or more utterances of them"
        )
    paths = {
        part: write_part(part, found, folder, save_folder, need_label=True, **options)
        for part, found in parts.items()
    }
    named = (
        pair._replace(enrolment=utterance_of(pair.enrolment), test=utterance_of(pair.test))
        for pair in pairs
    )
    return paths | {"trials": write_trials(Path(save_folder) / "trials.txt", named)}


def scan(folder):
    """All utterances, SPEAKER/VIDEO/NUMBER.wav."""
    entries = []
    for root in FOLDERS:
        for speaker in list_subfolders(folder / root) if (folder / root).is_dir() else []:
            for video in list_subfolders(speaker):
                files = [item.path for item in list_entries(video) if item.name.endswith(".wav")]
                entries += [entry_of(Path(file).relative_to(folder).as_posix()) for file in files]
    return entries


def find_clip(folder, name):
    """Where a clip of the trials is, or would be."""
    found = (f"{root}/{name}" for root in FOLDERS if (folder / root / name).is_file())
    return next(found, f"{FOLDERS[0]}/{name}")


def entry_of(file):
    """The entry of a path that ends in SPEAKER/VIDEO/NUMBER.wav."""
    speaker = file.split("/")[-3] if file.count("/") > 1 else ""
    return Entry(utterance_of(file), file, speaker, label=speaker)


def utterance_of(file):
    """SPEAKER/VIDEO/NUMBER, an ID that is also the end of the path."""
    return "/".join(file.split("/")[-3:]).removesuffix(".wav")

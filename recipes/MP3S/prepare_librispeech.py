"""LibriSpeech for speech recognition: train-clean-100, dev-clean, test-clean and test-other."""

from speechbrain_pom.data.corpora import Corpus, find_corpus
from speechbrain_pom.data.librispeech import prepare_librispeech

CORPUS = Corpus("LibriSpeech", "https://www.openslr.org/12", "SPLIT/SPEAKER/CHAPTER/*.flac")


def prepare(
    data_folder,
    save_folder,
    train_split="train-clean-100",
    valid_split="dev-clean",
    test_splits=("test-clean", "test-other"),
    **options,
):
    """Write a manifest for each split; `options` are those of `prepare_librispeech`.

    Returns
    -------
    dict
        CSV files by part, as the key `prepare` of the recipes takes them.
    """
    splits = [train_split, valid_split, *test_splits]
    find_corpus(data_folder, CORPUS, splits)
    paths = prepare_librispeech(data_folder, splits, save_folder, **options)
    tests = {name: paths[name] for name in test_splits}
    return {"train": paths[train_split], "valid": paths[valid_split], "test": tests}

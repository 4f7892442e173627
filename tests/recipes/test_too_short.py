"""Utterances of which a stage can make nothing: left out by name, and no figure is ever NaN."""

import math

import numpy as np
import pytest
import soundfile

LONG, SHORT = [32000, 16000, 40000], [1, 63, 1119]  # 1120 samples are the 8 frames of two masks
SPLITS = {"train-clean-100": "1", "dev-clean": "2", "test-clean": "3", "test-other": "4"}
ONE_EPOCH = {"number_of_epochs": 1, "pretrained": "null"}
TOO_SHORT = "3 of 6 utterances cannot be used by BEST-RQ, and are left out: "
NOT_ALIGNED = "3 of 6 utterances have more labels than CTC can align with their frames, "


def make_corpus(root, lengths):
    """Noise in LibriSpeech's layout; by default the lengths of a split are all good."""
    rng = np.random.default_rng(0)
    for split, speaker in SPLITS.items():
        folder = root / split / speaker / "7"
        folder.mkdir(parents=True)
        transcripts = []
        for number, num_samples in enumerate(lengths.get(split, LONG)):
            name = f"{speaker}-7-{number:04d}"
            soundfile.write(folder / f"{name}.flac", 0.1 * rng.standard_normal(num_samples), 16000)
            transcripts.append(f"{name} ABBA\n")
        (folder / f"{speaker}-7.trans.txt").write_text("".join(transcripts))
    return root


CORPORA = {
    "some": dict.fromkeys(SPLITS, LONG + SHORT),
    "train": {"train-clean-100": SHORT},
    "valid": {"dev-clean": SHORT},
}


@pytest.fixture(scope="module")
def outcomes(recipes, tmp_path_factory):
    """Exit code, stderr and folder of each stage with each corpus."""
    tmp = tmp_path_factory.mktemp("too_short")
    commands = {}
    for name, lengths in CORPORA.items():
        corpus = make_corpus(tmp / "data" / name, lengths)
        for stage, options in {"bestrq": {"number_of_epochs": 1}, "ctc": ONE_EPOCH}.items():
            folder = tmp / f"{name}_{stage}"
            options = {"data_folder": corpus, "output_folder": folder, **options}
            commands[name, stage] = recipes.arguments(stage, **options)
    results = recipes.call_all([[str(part) for part in call] for call in commands.values()])
    folders = [tmp / "_".join(key) for key in commands]
    return {
        key: (*result, folder)
        for key, result, folder in zip(commands, results, folders, strict=True)
    }


def all_figures(record):
    return [value for part in ("train", "valid") for value in record[part].values()]


@pytest.mark.parametrize("stage", ["bestrq", "ctc"])
def test_short_ones_among_others_are_left_out_by_name(recipes, outcomes, stage):
    code, stderr, folder = outcomes["some", stage]
    assert code == 0, stderr
    log = (folder / "log.txt").read_text()
    problem = TOO_SHORT if stage == "bestrq" else f"{NOT_ALIGNED}and are left out: "
    for speaker in "12":  # of training and of validation
        assert f"{problem}{speaker}-7-0003: " in log
        assert f"; {speaker}-7-0005: " in log
    (record,) = recipes.history(folder)
    assert all(map(math.isfinite, all_figures(record)))
    if stage == "ctc":  # the error rates of a test are those of the whole set
        assert f"{NOT_ALIGNED}but are scored: 3-7-0003: " in log
        assert (folder / "wer_test-clean_no_lm.txt").read_text().count("3-7-000") == 6


@pytest.mark.parametrize("stage", ["bestrq", "ctc"])
@pytest.mark.parametrize("part", ["train", "valid"])
def test_nothing_but_short_ones_is_refused(recipes, outcomes, stage, part):
    code, stderr, folder = outcomes[part, stage]
    recipes.check_refusal(code, stderr, "no utterance can be used: 3 of 3 utterances")
    assert not (folder / "history.jsonl").exists()
    assert not any(folder.glob("save/CKPT+*"))

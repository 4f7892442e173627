"""The downstream task of its page in docs: two files, and resuming and reports come along."""

import csv
import re
import sys

import pytest
import torch

from speechbrain_pom.reports.summary import summarize
from tests.helpers import ROOT
from tests.helpers.recipes import KILLED


@pytest.fixture(scope="module")
def own_task(tmp_path_factory, corpus):
    """A folder with the two files of the page, and CSV files of who speaks."""
    folder = tmp_path_factory.mktemp("own_task")
    text = (ROOT / "docs/adding_a_task.md").read_text(encoding="utf-8")
    for name, language in (("train_classifier.py", "py"), ("classifier.yaml", "yaml")):
        block = re.search(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        (folder / name).write_text(block[1], encoding="utf-8")
    files = sorted((corpus / "train-clean-100").glob("*/*/*.flac"))
    for name, part in (("train", files[::2]), ("valid", files[1::2])):
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["id", "path", "label"])
            writer.writerows([path.stem, path, path.parts[-3]] for path in part)
    return folder


@pytest.fixture(scope="module")
def train(recipes, own_task, pretrained):
    """Function of an output folder: runs the program, or until it is killed at a batch."""

    def run(name, epoch=None, batch=None, **options):
        options = {
            "output_folder": own_task / name,
            "pretrained": pretrained[0],
            "train_csv": own_task / "train.csv",
            "valid_csv": own_task / "valid.csv",
            "number_of_epochs": 2,
            "lr": 0.01,
            "device": "cpu",
            **options,
        }
        script = [own_task / "train_classifier.py"]
        script = script if epoch is None else ["-c", KILLED, *script, epoch, batch]
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        command = [sys.executable, *script, own_task / "classifier.yaml", *words]
        command += ["--noprogressbar"]
        return recipes.run(command, curves=name == "straight", PYTHONPATH=str(ROOT))

    return run


def weights(folder):
    checkpoint = max((folder / "save").glob("CKPT+*"), key=lambda path: path.name)
    return torch.load(checkpoint / "classifier.ckpt", weights_only=True)


def test_it_is_trained_and_killed_and_resumed_and_reported(recipes, train, own_task):
    straight = train("straight")
    assert straight.returncode == 0, straight.stdout[-3000:] + straight.stderr[-3000:]
    assert train("killed", epoch=2, batch=2).returncode == -9
    assert train("killed").returncode == 0
    first, last = recipes.history(own_task / "straight")
    assert last["train"]["loss"] < first["train"]["loss"]
    ours, theirs = weights(own_task / "straight"), weights(own_task / "killed")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (own_task / "straight/curves.png").stat().st_size > 0
    assert f"-> {last['valid']['error_rate']:.2f} %" in summarize(own_task / "straight")


def test_a_bad_call_is_one_line(recipes, train, tmp_path):
    result = train("refused", train_csv=tmp_path / "absent.csv")
    recipes.check_refusal(result.returncode, result.stderr, "absent.csv")

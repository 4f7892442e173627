"""The objective of its page in docs: two files, and the program and all reports know it."""

import re

import pytest
from ruamel.yaml import YAML

from speechbrain_pom.encoder.loading import load_encoder
from speechbrain_pom.reports.comparison import read_runs
from speechbrain_pom.reports.learning_curves import draw_together
from speechbrain_pom.reports.summary import summarize
from speechbrain_pom.runs.metrics import read_metrics
from tests.helpers import ROOT

OF_BESTRQ = ("mask_prob", "mask_length", "mask_scope", "noise_mean", "noise_std")
OF_BESTRQ += ("cb_dim", "cb_vocab", "Quantizer", "linear", "objective")


def example():
    """The module and the YAML of the page."""
    text = (ROOT / "docs/adding_an_objective.md").read_text(encoding="utf-8")
    return [
        re.search(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]
        for language in ("py", "yaml")
    ]


@pytest.fixture(scope="module")
def own_files(tmp_path_factory):
    """A folder with the two files, the YAML made of pom.yaml as the text says."""
    folder = tmp_path_factory.mktemp("own_objective")
    module, changes = example()
    (folder / "masked_regression.py").write_text(module)
    yaml = YAML()
    tree = yaml.load((ROOT / "hparams/pom.yaml").read_text(encoding="utf-8"))
    for key in OF_BESTRQ:
        del tree[key]
        tree["demo"].pop(key, None)
    changes = yaml.load(changes)
    place = list(tree).index("modules")
    for key in reversed(changes):
        tree.insert(place, key, changes[key])
    with open(folder / "masked_regression.yaml", "w", encoding="utf-8") as stream:
        yaml.dump(tree, stream)
    return folder


@pytest.fixture(scope="module")
def own_run(recipes, corpus, own_files):
    """A run of two epochs by the program."""
    yaml = own_files / "masked_regression.yaml"
    options = {"data_folder": corpus, "output_folder": own_files / "run", "yaml": yaml}
    options |= {"mask_scope": None, "cb_vocab": None, "lr": 0.003}
    command = [*recipes.PYTHON, *recipes.arguments("bestrq", **options)]
    paths = f"{own_files}:{ROOT}"
    result = recipes.run(command, curves=True, PYTHONPATH=paths)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "torchvision" not in result.stderr  # SpeechBrain's loggers could use it, ours do not
    return own_files / "run"


def test_it_is_trained_and_all_reports_know_it(recipes, own_run, tmp_path):
    first, last = recipes.history(own_run)
    assert last["train"]["loss"] < first["train"]["loss"]
    assert last["valid"].keys() == {"loss", "explained"}
    assert (own_run / "curves.png").stat().st_size > 0
    task = read_metrics(own_run)
    assert task.task == "masked regression"
    assert {"Loss", "Explained variance"} <= {metric.panel for metric in task.metrics}
    text = summarize(own_run)
    assert f"-> {100 * last['valid']['explained']:.1f} %" in text
    assert "codes" not in text
    assert draw_together(read_runs([own_run]), tmp_path / "compare.png")


def test_its_encoder_is_loaded_and_its_head_kept(recipes, own_run):
    assert load_encoder(own_run).d_model == recipes.ENCODER["d_model"]
    checkpoint, meta = recipes.newest_checkpoint(own_run)
    assert (checkpoint / "linear.ckpt").is_file()
    assert {"loss", "explained"} <= meta.keys()


def test_a_wrong_option_is_one_line(recipes, corpus, own_files):
    yaml = own_files / "masked_regression.yaml"
    options = {"data_folder": corpus, "output_folder": own_files / "wrong", "yaml": yaml}
    options |= {"mask_scope": None, "cb_vocab": None, "mask_share": 1.5}
    command = [*recipes.PYTHON, *recipes.arguments("bestrq", **options)]
    result = recipes.run(command, PYTHONPATH=f"{own_files}:{ROOT}")
    recipes.check_refusal(
        result.returncode, result.stderr, "mask_share = 1.5: give a share between 0 and 1"
    )

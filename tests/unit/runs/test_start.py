"""The opening of a recipe: what it refuses, and what it leaves alone."""

import sys
from pathlib import Path

import pytest

from speechbrain_pom.runs import start
from speechbrain_pom.runs.folder import mark_finished
from speechbrain_pom.runs.start import start_experiment
from speechbrain_pom.utils import locks
from speechbrain_pom.utils.errors import UserError

TOY = "seed: 1\ndata_folder: null\noutput_folder: null\nlr: 0.1\n"


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Open a recipe as from the command line, without its log handlers."""
    monkeypatch.setattr(locks, "_held", {})
    prepared = []
    monkeypatch.setattr(start, "prepare_output_folder", lambda *args: prepared.append(args))
    yaml_path, script = tmp_path / "toy.yaml", tmp_path / "train.py"
    yaml_path.write_text(TOY)
    (tmp_path / "out").mkdir()

    def open_recipe(*arguments, demo_data=None):
        command = [str(script), str(yaml_path), f"--output_folder={tmp_path / 'out'}", *arguments]
        monkeypatch.setattr(sys, "argv", command)
        return start_experiment(str(script), demo_data=demo_data)

    open_recipe.prepared, open_recipe.folder = prepared, tmp_path / "out"
    return open_recipe


def test_a_run_begins_with_its_folder_and_lock(recipe):
    experiment, launch = recipe("--data_folder=/data", "--lr=0.5")
    assert (launch.rank, launch.world_size) == (0, 1)
    assert experiment.hparams["lr"] == 0.5
    assert len(recipe.prepared) == 1
    assert {path.name for path in recipe.folder.iterdir()} == {".lock", "run.json"}


def test_without_data_and_demo_nothing_begins(recipe):
    with pytest.raises(UserError) as error:
        recipe()
    message = "data_folder is null and the YAML has no demo: give --data_folder"
    assert str(error.value) == message
    with pytest.raises(UserError, match="data_folder is null"):
        recipe(demo_data=lambda: "/mini")  # data, but no demo in the YAML
    assert recipe.prepared == []
    assert list(recipe.folder.iterdir()) == []


def test_a_finished_run_ends_with_code_0_and_writes_nothing(recipe, capsys):
    experiment, _ = recipe("--data_folder=/data")
    mark_finished(experiment, 1)
    recipe.prepared.clear()
    before = {path: path.stat().st_mtime_ns for path in recipe.folder.iterdir()}
    with pytest.raises(SystemExit) as end:
        recipe("--data_folder=/data")
    assert end.value.code == 0
    assert capsys.readouterr().out == (
        f"{recipe.folder}: this run is finished, nothing to do (raise number_of_epochs or "
        "optimizer_step_limit to train on)\n"
    )
    assert recipe.prepared == []
    assert {path: path.stat().st_mtime_ns for path in recipe.folder.iterdir()} == before


def test_what_is_refused_leaves_the_documents_of_the_run_alone(recipe):
    recipe("--data_folder=/data")
    (recipe.folder / "save" / "CKPT+1").mkdir(parents=True)
    recipe.prepared.clear()
    recorded = (recipe.folder / "run.json").read_bytes()
    with pytest.raises(UserError, match=r"lr 0\.1 \(now 0\.5\)"):
        recipe("--data_folder=/data", "--lr=0.5")
    assert recipe.prepared == []
    assert (recipe.folder / "run.json").read_bytes() == recorded
    assert Path(recipe.folder / "save" / "CKPT+1").is_dir()


CHECKPOINTER = """
checkpointer: !new:speechbrain_pom.runs.checkpoints.SafeCheckpointer
    checkpoints_dir: !ref <output_folder>/save
"""


def test_damaged_checkpoints_are_refused_before_anything_is_written(recipe):
    yaml_path = recipe.folder.parent / "toy.yaml"
    yaml_path.write_text(TOY + CHECKPOINTER)
    experiment, _ = recipe("--data_folder=/data")
    saved = experiment.hparams["checkpointer"].save_checkpoint(name="only").path
    recipe("--data_folder=/data")
    recipe.prepared.clear()
    (saved / "CKPT.yaml").unlink()
    with pytest.raises(UserError, match=r"all 1 checkpoints .*CKPT\+only: it has no CKPT\.yaml"):
        recipe("--data_folder=/data")
    assert recipe.prepared == []

"""`init` writes recipes that run, and replaces nothing."""

import re

import pytest

from speechbrain_pom.__main__ import main


def test_recipes_are_copied_and_start(programs, tmp_path, capsys):
    folder = tmp_path / "work"
    assert main(["init", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "python recipes/LibriSpeech/train_bestrq.py hparams/pom.yaml\n" in printed
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert printed.startswith(f"{len(files)} files in {folder}")
    assert {"recipes/LibriSpeech/librispeech_prepare.py", "hparams/pom_ctc.yaml"} <= files
    assert not [name for name in files if name.endswith((".json", ".pyc"))]

    help_text = programs.run(
        ["recipes/LibriSpeech/train_bestrq.py", "hparams/pom.yaml", "--help"], cwd=folder
    )
    assert help_text.returncode == 0
    assert "--attention_type" in help_text.stdout


def test_files_that_are_there_stay(tmp_path):
    own = tmp_path / "hparams" / "pom.yaml"
    own.parent.mkdir()
    own.write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main(["init", str(tmp_path)])
    assert stop.value.code == 2
    assert own.read_text() == "mine"
    assert not (tmp_path / "recipes").exists()


def test_a_package_without_recipes_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("speechbrain_pom.cli.init.__file__", str(tmp_path / "a/b/init.py"))
    with pytest.raises(SystemExit):
        main(["init", str(tmp_path / "work")])
    assert re.match("error: the recipes are missing beside '", capsys.readouterr().err)

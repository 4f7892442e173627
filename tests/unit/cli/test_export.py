"""`export` on the command line."""

import pytest

from speechbrain_pom.__main__ import main


@pytest.fixture
def run_folder(make_run, tmp_path, monkeypatch):
    """A run of fine-tuning with two checkpoints; the older one has the lower WER."""
    monkeypatch.chdir(tmp_path)
    best = make_run(tmp_path / "ctc", "ctc", meta={"wer": 12.5, "unixtime": 1.0})
    make_run(tmp_path / "ctc", "ctc", meta={"wer": 20.0, "unixtime": 2.0})
    return best


def test_the_best_checkpoint_is_exported(run_folder, capsys):
    assert main(["export", "ctc", "out", "--licence", "apache-2.0", "--language", "en"]) == 0
    printed = capsys.readouterr().out
    assert f"{run_folder.name} (validation: greedy WER 12.50 %)" in printed.splitlines()[0]
    for name in ("hyperparams.yaml", "encoder.safetensors", "units.json", "README.md"):
        assert f"bytes  out/{name}\n" in printed
    assert 'EncoderASR.from_hparams(source="out")' in printed
    assert 'WaveformEncoder.from_hparams(source="out", hparams_file="encoder.yaml")' in printed
    assert 'load_encoder("out")' in printed
    card = (run_folder.parents[2] / "out" / "README.md").read_text()
    assert card.startswith("---\nlanguage: en\nlibrary_name: speechbrain\nlicense: apache-2.0\n")
    assert "\n# out\n" in card
    assert main(["export", "ctc", "out", "--overwrite"]) == 0
    with pytest.raises(SystemExit):
        main(["export", "out", "again"])
    assert "'out' is an export already: give a run or one of its" in capsys.readouterr().err


def test_one_checkpoint_of_pretraining(make_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checkpoint = make_run(tmp_path / "bestrq")
    assert main(["export", str(checkpoint), "out"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"checkpoint: {checkpoint} (5 steps)\n")
    assert "EncoderASR" not in printed
    assert 'WaveformEncoder.from_hparams(source="out")' in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "out"], "'nowhere' does not exist: give a run's folder"),
        (["ctc", "out", "--licence", "do what you like"], "--licence is 'do what you like': give"),
        (["ctc", "out", "--language", "English"], "--language is 'English': give a code such as"),
        (["ctc", "ctc"], "ctc' is not empty, and holds no export of this run"),
        (["ctc"], "the following arguments are required: OUT"),
    ],
)
def test_bad_calls(run_folder, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["export", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()

"""`python -m experiments run`: both stages and the record, at a tiny size; and `compare`."""

import json
import sys

import pytest

pytestmark = pytest.mark.slow

PYTHON = [sys.executable, "-m"]


@pytest.fixture(scope="module")
def experiment(recipes, corpus, tmp_path_factory):
    """Its results folder, its command, and what it printed."""
    folder = tmp_path_factory.mktemp("experiment")
    command = [*PYTHON, "experiments", "run", "hybrid-relpos4-pom8", "--nproc", "1"]
    command += ["--results_folder", folder, "--data_folder", corpus, "--noprogressbar"]
    command += ["--attention_type", "RelPosMHAXL + PoM", "--device", "cpu", "--num_workers", "0"]
    for key, value in recipes.ENCODER.items():
        command += [f"--{key}", value]
    for stage, name in (("pretraining", "bestrq"), ("finetuning", "ctc")):
        for key, value in recipes.STAGES[name].items():
            if key not in (*recipes.ENCODER, "device", "num_workers"):
                command += [f"--{stage}.{key}", value]
    result = recipes.run(command)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder / "hybrid-relpos4-pom8", command, result.stdout


def test_both_stages_and_the_record(experiment):
    folder, _, printed = experiment
    record = json.loads((folder / "seed1000.json").read_text())
    assert not record["fills_cells"]
    assert record["corpus"] == "mini corpus (synthetic)"
    assert record["differences"]["pretraining"]["d_model"] == ["512", "16"]
    results = json.loads((folder / "1000/finetuning/results.json").read_text())
    assert record["results"] == results
    for stage, script in (("pretraining", "train_bestrq.py"), ("finetuning", "train_ctc.py")):
        assert record[stage]["command"].startswith(f"python recipes/LibriSpeech/{script} hparams/")
        assert record[stage]["hours"] >= 0
        assert f"{stage}: python recipes/LibriSpeech/{script}" in printed
    assert "It fills no cell of the tables. Corpus: mini corpus (synthetic)." in printed


def test_the_same_command_repeats_nothing(recipes, experiment):
    folder, command, _ = experiment
    before = [recipes.history(folder / f"1000/{stage}") for stage in ("pretraining", "finetuning")]
    result = recipes.run(command)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("this run is finished, nothing to do") == 2
    after = [recipes.history(folder / f"1000/{stage}") for stage in ("pretraining", "finetuning")]
    assert after == before


def test_compare_reads_what_runs_leave(recipes, experiment, tmp_path):
    folder = experiment[0] / "1000"
    picture = tmp_path / "compare.png"
    runs = sorted(folder.glob("*"))
    result = recipes.run([*PYTHON, "speechbrain_pom", "compare", *runs, "--out", picture])
    assert result.returncode == 0, result.stderr
    rates = json.loads((folder / "finetuning/results.json").read_text())
    for split, decoders in rates.items():
        assert (
            f"{split}, without LM, {decoders['no_lm']['num_utterances']} utterances"
            in result.stdout
        )
        assert f"| {decoders['no_lm']['wer']:.2f} " in result.stdout
    assert picture.is_file()

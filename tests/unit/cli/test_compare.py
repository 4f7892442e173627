"""`compare` on the command line."""

import pytest

from speechbrain_pom.__main__ import main
from speechbrain_pom.ctc.scoring import ErrorRates
from speechbrain_pom.runs.logs import ExperimentLogger

REFERENCES = ["ONE TWO THREE FOUR"] * 30


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs of fine-tuning; the first one makes no errors, the second one makes 30."""
    monkeypatch.chdir(tmp_path)
    folders = []
    for name, last in (("a", "FOUR"), ("b", "TEN")):
        rates = ErrorRates()
        predictions = [f"ONE TWO THREE {last}"] * 30
        rates.append([f"u{i}" for i in range(30)], predictions, REFERENCES)
        for decoder in ("no_lm", "lm"):
            rates.write(f"{name}/wer_test-other_{decoder}.txt")
        log = ExperimentLogger(tmp_path / name)
        log.log_stats({"epoch": 1, "steps": 9}, {"loss": 3.0}, {"loss": 2.0, "wer": 50.0})
        folders.append(name)
    return folders


def test_tables_and_picture(runs, tmp_path, capsys):
    assert main(["compare", *runs, "--num_randomisations", "99", "--seed", "5"]) == 0
    printed = capsys.readouterr().out
    blocks = printed.split("\n\n")
    assert blocks[0] == "test-other, with LM, 30 utterances"
    assert "test-other, without LM, 30 utterances" in blocks
    row = next(line for line in printed.splitlines() if line.startswith("| a - b "))
    assert "| -25.00 " in row
    assert "| 0.0100 |" in row
    assert "99 random exchanges of the errors of utterances, seed 5" in printed
    assert printed.endswith("learning curves: compare.png\n")
    assert (tmp_path / "compare.png").read_bytes()[1:4] == b"PNG"


def test_one_run_has_no_differences(runs, tmp_path, capsys):
    assert main(["compare", runs[0], "--out", "a/curves_of_a.png"]) == 0
    assert "difference" not in capsys.readouterr().out
    assert (tmp_path / "a/curves_of_a.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no such folder: 'nowhere'"),
        (["a", "./a"], "'a' is given twice: a run has no difference to itself"),
        (["a", "--out", "a.pdf"], "--out 'a.pdf': give a name that ends in .png, in a folder that"),
        (["a", "--out", "no/a.png"], "--out 'no/a.png': give a name that ends in .png"),
        (["a", "--num_bootstrap", "0"], "--num_bootstrap is 0: give at least 1"),
        (["a", "--num_bootstrap", "many"], "invalid int value: 'many'"),
    ],
)
def test_bad_calls(arguments, message, runs, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error

"""A recipe that knows nothing of this package runs with its attention types."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

RECIPE = ROOT / "tests/data/plain_recipe"
SCRIPT, YAML = str(RECIPE / "train.py"), str(RECIPE / "hparams.yaml")
PLUGIN = "plugin: !apply:speechbrain_pom.register\n"
RUN = ("-m", "speechbrain_pom", "run")


@pytest.fixture
def start(programs, tmp_path):
    """Run Python in the folder of the test; `really`: and not by the server of the tests."""

    def run(*arguments, really=False):
        arguments = [*arguments, "--noprogressbar", "--device", "cpu"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if not really:
            return programs.run(arguments, cwd=tmp_path, env=environment)
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run


def final_lines(result):
    """The lines that the recipe prints at its end: mixers, data folder, steps and loss."""
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    return dict(line.split(": ", 1) for line in lines[-3:])


@pytest.fixture
def with_plugin(tmp_path):
    path = tmp_path / "with_plugin.yaml"
    path.write_text(PLUGIN + Path(YAML).read_text())
    return str(path)


def test_plugin_line_in_the_yaml(start, tmp_path, with_plugin):
    """One line in the YAML and plain python do the same as `run`."""
    result = start(SCRIPT, with_plugin, "--data_folder=x", "--attention_type=PoM")
    plain = final_lines(result)
    assert plain["mixers"] == "PolynomialMixer PolynomialMixer"
    folder = "/data/a=b: c #d  e"
    arguments = ("--data_folder", folder, "--attention_type", "PoM(degree=2)")
    run = final_lines(start(*RUN, SCRIPT, YAML, *arguments, "--experiment_name=run", really=True))
    assert run["data_folder"] == repr(folder)
    assert {**run, "data_folder": "'x'"} == plain
    stored = (tmp_path / "results/run/1234/hyperparams.yaml").read_text()
    assert "attention_type: PoM(degree=2)\n" in stored
    assert (tmp_path / "results/run/1234/train.py").is_file()


def test_plugin_line_above_a_model_that_has_its_own_type(start, tmp_path):
    """Both shapes of file: the key has to stand where the model reads it."""
    text = PLUGIN + Path(YAML).read_text().replace("regularMHA", "PoM")
    unused, nested = tmp_path / "unused.yaml", tmp_path / "nested.yaml"
    unused.write_text(text.replace("!ref <attention_type>", "RelPosMHAXL"))
    result = start(SCRIPT, str(unused), "--data_folder=x")
    assert result.returncode == 1
    message = "attention_type 'PoM' is in the hparams file, but none of its encoders"
    assert f"{message} (encoder.transformer.encoder) was built" in result.stdout + result.stderr
    nested.write_text(text.replace("!ref <attention_type>", "PoM(2, 2)"))
    lines = final_lines(start(SCRIPT, str(nested), "--data_folder=x"))
    assert lines["mixers"] == "PolynomialMixer PolynomialMixer"


def test_mangled_spec_is_explained(start, tmp_path, with_plugin):
    arguments = ("--data_folder", "x", "--attention_type", "PoM(degree=3)")
    result = start(SCRIPT, with_plugin, *arguments)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert "attention_type 'PoM(degree 3)'" in last
    assert "SpeechBrain's command line splits values at '='" in last
    assert "PoM(3, 2)" in last
    assert "python -m speechbrain_pom run" in last
    assert not (tmp_path / "results").exists()


def test_type_inside_of_the_section(start, tmp_path):
    """As in most recipes of SpeechBrain: no key at the top; and it is stored as it was built."""
    nested = tmp_path / "nested.yaml"
    text = Path(YAML).read_text().replace("attention_type: regularMHA\n", "")
    nested.write_text(text.replace("!ref <attention_type>", "RelPosMHAXL"))
    arguments = ("--data_folder=x", "--attention_type", "PoM(degree=2)", "--Transformer.d_ffn=16")
    lines = final_lines(start(*RUN, SCRIPT, str(nested), *arguments))
    assert lines["mixers"] == "PolynomialMixer PolynomialMixer"
    stored = (tmp_path / "results/plain/1234/hyperparams.yaml").read_text()
    assert "  attention_type: PoM(degree=2)\n" in stored
    assert "  d_ffn: 16\n" in stored


def test_hybrid_spec_and_step_limit(start):
    arguments = ("--data_folder=x", "--attention_type=RelPosMHAXL*1 + PoM(degree=3)*1")
    result = start(*RUN, SCRIPT, YAML, *arguments, "--optimizer_step_limit", "2")
    lines = final_lines(result)
    assert lines["mixers"] == "RelPosMHAXL PolynomialMixer"
    assert lines["steps"].startswith("2, loss: ")


@pytest.mark.slow
@pytest.mark.parametrize("key", ["attention_type", "Transformer.attention_type"])
def test_two_processes(start, key):
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")
    arguments = ("--data_folder=x", f"--{key}", "RelPosMHAXL*1 + PoM(degree=3)*1")
    result = start(
        *launcher, *RUN, SCRIPT, YAML, *arguments, "--distributed_backend", "gloo", really=True
    )
    lines = final_lines(result)
    assert lines["mixers"] == "RelPosMHAXL PolynomialMixer"
    assert lines["steps"].startswith("2, loss: ")  # 8 utterances, batches of 2, 2 processes


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("Transformer.attention_typ", "unknown option --Transformer.attention_typ: did you mean"),
        ("encoder.transformer.nhead", "encoder.transformer is !ref <Transformer>: give --Trans"),
    ],
)
def test_keys_that_lead_nowhere_end_the_run_with_one_line(start, key, message, tmp_path):
    result = start(*RUN, SCRIPT, YAML, "--data_folder=x", f"--{key}=PoM")
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "results").exists()

"""Commands of a row: what they have, for which stage, and how they are run."""

import os
import re
import shlex
import signal
import threading
from dataclasses import replace

import pytest

from experiments.commands import (
    build_commands,
    format_command,
    output_folder,
    run_command,
)
from experiments.table import find_row
from speechbrain_pom.runs.options import parse_command_line
from tests.helpers import ROOT


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def overrides_of(name, *options, num_processes=2, **kwargs):
    """What the two recipes understand of a row's commands."""
    commands = build_commands(find_row(name), options, num_processes, **kwargs)
    found = {}
    for stage, words in commands.items():
        script = next(i for i, word in enumerate(words) if word.endswith(".py"))
        request = parse_command_line(words[script + 1 :])
        found[stage] = {**request.run_options, **request.overrides}
    return found


def test_commands_of_a_published_row():
    commands = build_commands(find_row("base-mamba"), ["--data_folder", "/data"])
    assert list(map(format_command, commands.values())) == [
        "torchrun --standalone --nproc-per-node=2 recipes/LibriSpeech/train_bestrq.py "
        "hparams/pom.yaml --attention_type Mamba --d_model 474 --lr 0.0008 --weight_decay 0.01 "
        "--output_folder results/experiments/base-mamba/1000/pretraining --data_folder /data",
        "python recipes/LibriSpeech/train_ctc.py hparams/pom_ctc.yaml "
        "--output_folder results/experiments/base-mamba/1000/finetuning "
        "--pretrained results/experiments/base-mamba/1000/pretraining --data_folder /data",
    ]
    assert output_folder(commands["finetuning"]).name == "finetuning"


def test_commands_of_a_row_with_files_of_its_own():
    options = ["--pretraining.data_folder", "/light", "--finetuning.data_folder", "/speech"]
    commands = build_commands(find_row("wav2vec2-pom"), options)
    first, second = map(format_command, commands.values())
    assert first == (
        "torchrun --standalone --nproc-per-node=4 recipes/LibriSpeech/train_wav2vec2.py "
        "hparams/wav2vec2.yaml --attention_type PoM --d_model 600 --output_folder "
        "results/experiments/wav2vec2-pom/1000/pretraining --data_folder /light"
    )
    assert "train_ctc.py hparams/pom_ctc.yaml" in second
    assert second.endswith("--data_folder /speech")
    found = overrides_of("wav2vec2-pom", num_processes=2)["pretraining"]  # 5760 s of audio a step
    assert found["grad_accumulation_factor"] == 8
    assert "max_batch_duration_s" not in found


@pytest.mark.parametrize("word", ["PoM(2, 2, 'selective')", 'a "b" $c', "it's", "plain", "a!b c"])
def test_a_shell_reads_the_words_of_a_command(word):
    assert shlex.split(format_command(["--key", word])) == ["--key", word]


def test_the_name_of_a_variable_stays_one():
    assert format_command(["--data_folder", "$SPEECH"]) == '--data_folder "$SPEECH"'
    assert format_command(["$SPEECH and more"]) == "'$SPEECH and more'"


def test_options_go_to_the_stages_that_have_them():
    options = ["--mask_prob=0.1", "--beam_size", "7", "--dropout", "0", "--device", "cpu"]
    found = overrides_of("base-pom", *options)
    first, second = found["pretraining"], found["finetuning"]
    assert (first["mask_prob"], second["beam_size"]) == (0.1, 7)
    assert "beam_size" not in first
    assert "mask_prob" not in second
    assert first["dropout"] == second["dropout"] == 0
    assert first["device"] == second["device"] == "cpu"


def test_options_of_one_stage():
    options = ["--pretraining.lr=0.002", "--finetuning.precision", "bf16"]
    found = overrides_of("base-mamba", *options)
    assert found["pretraining"]["lr"] == 0.002
    assert found["pretraining"]["weight_decay"] == 0.01
    assert "lr" not in found["finetuning"]
    assert found["finetuning"]["precision"] == "bf16"
    assert "precision" not in found["pretraining"]


def test_options_replace_those_of_the_row_and_the_seed_names_the_folders():
    found = overrides_of("base-relposmha", "--d_model=64", "--seed=7", results_folder="out")
    assert found["pretraining"]["d_model"] == 64
    assert "d_model" not in found["finetuning"]  # its encoder is the pretrained one
    assert found["pretraining"]["output_folder"] == "out/base-relposmha/7/pretraining"
    assert found["finetuning"]["pretrained"] == "out/base-relposmha/7/pretraining"


@pytest.mark.parametrize("num_processes", [1, 2, 3, 4, 5, 8, 16])
def test_a_step_takes_the_published_audio_on_any_number_of_processes(num_processes):
    found = overrides_of("base-pom", num_processes=num_processes)["pretraining"]
    duration_s = found.get("max_batch_duration_s", 1400)
    factor = found.get("grad_accumulation_factor", 2)
    assert num_processes * duration_s * factor == pytest.approx(5600, rel=1e-5)
    assert duration_s <= 1400


def test_a_batch_that_is_given_is_kept():
    found = overrides_of("base-pom", "--max_batch_duration_s", "100", num_processes=8)
    assert found["pretraining"]["max_batch_duration_s"] == 100
    assert "grad_accumulation_factor" not in found["pretraining"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--d_modle", "8"], "unknown option --d_modle: did you mean --d_model?"),
        (["--finetuning.mask_prob", "0.1"], "unknown option --mask_prob"),
        (["--pretraning.lr", "0.1"], "unknown option --pretraning.lr"),
        (["--lr", "0.1"], "--lr is 0.001 in pretraining and 0.0003 in fine-tuning: give --pre"),
        (["--output_folder", "x"], "--output_folder follows from the experiment: choose another"),
        (["--finetuning.pretrained=x"], "--finetuning.pretrained follows from the experiment"),
        (["--pretraining.seed", "1"], "two seeds (1, 1000): give --seed for both stages"),
        (["8"], "unexpected argument '8': what follows the name is --key value"),
        (["--d_model", "wide"], "--d_model takes a number"),
        (["--d_model", "8", "--d_model", "9"], "--d_model is given twice"),
        (["--d_model"], "--d_model needs a value"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build_commands(find_row("base-pom"), options)


def test_a_row_has_keys_of_the_files():
    row = replace(find_row("base-pom"), overrides={"d_modle": 8})
    with pytest.raises(ValueError, match="unknown option --d_modle: did you mean --d_model"):
        build_commands(row)
    found = build_commands(replace(row, overrides={"device": "cpu", "mask_prob": 0.2}))
    assert "--device cpu" in " ".join(found["finetuning"])
    assert "--mask_prob 0.2" in " ".join(found["pretraining"])
    assert "mask_prob" not in " ".join(found["finetuning"])


def test_elsewhere_than_in_a_checkout(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    message = r"no recipes/LibriSpeech/train_bestrq\.py in .*: the experiments are run from a check"
    with pytest.raises(ValueError, match=message):
        build_commands(find_row("base-pom"))


def test_exit_code_of_a_command():
    assert run_command(["python", "-c", "raise SystemExit(7)"]) == 7


def test_sigterm_is_passed_on_and_waited_for(tmp_path):
    ready, program = tmp_path / "ready", tmp_path / "program.py"
    program.write_text(
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: exit(5))\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(60)\n"
    )

    def stop_when_ready():
        while not ready.exists():
            ended.wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)  # from a terminal it would reach the program by itself
        os.kill(os.getpid(), signal.SIGTERM)

    ended = threading.Event()
    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop_when_ready, daemon=True).start()
    assert run_command(["python", str(program)]) == 5
    assert signal.getsignal(signal.SIGTERM) == before

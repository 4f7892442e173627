"""Calls that cannot work: one line, exit code 2, nothing trained."""

import shutil
import sys

import pytest

from tests.helpers import ROOT

# Stage, options, and what the line says; {...} stands for paths of the session.
CASES = {
    "no such data folder": ("bestrq", {"data_folder": "{tmp}/none"}, ["'{tmp}/none'", "not exist"]),
    "data folder is a file": (
        "ctc",
        {"data_folder": "{tmp}/file", "pretrained": "null"},
        ["'{tmp}/file'"],
    ),
    "no such split": (
        "bestrq",
        {"train_splits": "[train-clean-360]"},
        ["train-clean-360", "{corpus}"],
    ),
    "no such test split": (
        "ctc",
        {"test_splits": "[test-foo]", "pretrained": "null"},
        ["test-foo", "{corpus}"],
    ),
    "unknown attention type": (
        "bestrq",
        {"attention_type": "PoMM"},
        ["hparams/pom.yaml", "PoMM", "PoM", "RelPosMHAXL"],
    ),
    "spec without an end": ("bestrq", {"attention_type": "PoM(degree="}, ["PoM(degree="]),
    "unknown option of a mixer": (
        "ctc",
        {"pretrained": "null", "attention_type": "PoM(depth=2)"},
        ["depth", "degree"],
    ),
    "key of the architecture": (
        "ctc",
        {"d_model": 16},
        ["--d_model is a key of the encoder's architecture, which comes from --pretrained"],
    ),
    "unknown key of the architecture": (
        "ctc",
        {"pretrained": "null", "architecture_overrides": "{{d_modle: 16}}"},
        ["hparams/pom.yaml: unknown option d_modle", "did you mean d_model?"],
    ),
    "from scratch without an architecture": (
        "ctc",
        {"pretrained": "null", "architecture": "null", "architecture_overrides": None},
        ["pretrained is null: give the architecture", "--architecture hparams/pom.yaml"],
    ),
    "no such module to compile": (
        "bestrq",
        {"compile_module_keys": "[objective, encoder]"},
        ["--compile_module_keys encoder: there is no such module here: name objective"],
    ),
    "no such module to compile in fine-tuning": (
        "ctc",
        {"pretrained": "null", "compile_module_keys": "encoder"},
        ["--compile_module_keys encoder: there is no such module here: name ctc"],
    ),
    "counts that do not add up": (
        "bestrq",
        {"attention_type": "RelPosMHAXL*1 + PoM*4"},
        ["RelPosMHAXL*1 + PoM*4", "5", "2"],
    ),
    "unknown key": ("bestrq", {"d_modle": 16}, ["--d_modle", "did you mean --d_model?"]),
    "no folder to write to": (
        "bestrq",
        {"output_folder": "{tmp}/file/out"},
        ["'{tmp}/file/out'", "Not a directory"],
    ),
    "unset placeholder": (
        "bestrq",
        {"yaml": "{tmp}/placeholder.yaml", "data_folder": None},
        ["{tmp}/placeholder.yaml", "data_folder", "is not set", "--data_folder"],
    ),
    "no such experiment": ("ctc", {"yaml": "hparams/none.yaml"}, ["'hparams/none.yaml'"]),
    "pretrained without a checkpoint": (
        "ctc",
        {"pretrained": "{corpus}"},
        ["pretrained: '{corpus}' holds no CKPT.yaml", "--pretrained null"],
    ),
    "pretrained that is not there": (
        "ctc",
        {"pretrained": "{tmp}/none"},
        ["pretrained: '{tmp}/none' does not exist"],
    ),
    "pretrained that is no file of tensors": (
        "ctc",
        {"pretrained": "{tmp}/CKPT+text"},
        ["{tmp}/CKPT+text/model.ckpt is damaged or no file of tensors"],
    ),
    "everything masked": (
        "bestrq",
        {"mask_prob": 0.3},
        ["mask_prob = 0.3 with mask_length = 4 would mask every frame", "1 / mask_length = 0.25"],
    ),
    "blocks half masked": ("bestrq", {"mask_length": 6}, ["mask_length = 6", "multiple of 4"]),
    "limit that is no number": (
        "bestrq",
        {"optimizer_step_limit": "abc"},
        ["--optimizer_step_limit takes a whole number or null, not 'abc'"],
    ),
    "size that is no number": ("bestrq", {"d_model": "big"}, ["--d_model takes a number", "'big'"]),
    "precision that does not exist": ("bestrq", {"precision": "fp12"}, ["--precision", "'fp12'"]),
    "utterance longer than a batch": (
        "bestrq",
        {"max_batch_duration_s": 2},
        ["more than max_batch_duration_s = 2"],
    ),
    "no utterance in range": (
        "bestrq",
        {"min_duration_s": 50},
        ["utterances lasts from 50 to 60 s"],
    ),
    "unknown order": ("ctc", {"sorting": "up", "pretrained": "null"}, ["'up'", "ascending"]),
    "no number of steps": (
        "ctc",
        {"n_warmup_steps": -3, "pretrained": "null"},
        ["n_warmup_steps is -3: give a number of steps, or 0"],
    ),
    "unknown units": (
        "ctc",
        {"tokenizer": "words", "pretrained": "null"},
        ["'words'", "char or bpe"],
    ),
    "too many pieces": (
        "ctc",
        {"tokenizer": "bpe", "num_pieces": 9000, "pretrained": "null"},
        ["9000"],
    ),
    "hypermixing with chunks": (
        "bestrq",
        {"streaming": True, "attention_type": "hypermixing"},
        ["streaming: hypermixing ignores chunk masks and sees the future"],
    ),
    "Mamba in both directions with chunks": (
        "bestrq",
        {"streaming": True, "attention_type": "Mamba"},
        ["streaming: Mamba(bidirectional=True) cannot stream"],
    ),
    "Fastformer with chunks": (
        "ctc",
        {"streaming": True, "attention_type": "PoM + Fastformer", "pretrained": "null"},
        ["streaming: Fastformer cannot stream"],
    ),
    "features of the whole utterance with chunks": (
        "wav2vec2",
        {"streaming": True, "normalize.norm_type": "sentence"},
        ["streaming: the features are normalised over the whole utterance"],
    ),
    "chunks that cannot be": (
        "ctc",
        {"streaming": True, "test_chunks": "[16, null]", "pretrained": "null"},
        ["test_chunks has 16: give null (the full context), or the frames of a chunk"],
    ),
    "no such language model": (
        "ctc",
        {"kenlm_model_path": "{tmp}/none.arpa", "pretrained": "null"},
        ["{tmp}/none.arpa"],
    ),
}


@pytest.fixture(scope="module")
def outcomes(recipes, corpus, tmp_path_factory):
    """What each call did: exit code, stderr, output folder; and the paths of the session."""
    tmp = tmp_path_factory.mktemp("bad_calls")
    paths = {"tmp": tmp, "corpus": corpus}
    (tmp / "file").write_text("a file")
    yaml = (recipes.ROOT / "hparams/pom.yaml").read_text()
    assert "data_folder: null\n" in yaml
    placeholder = yaml.replace("data_folder: null\n", "data_folder: !PLACEHOLDER\n")
    (tmp / "placeholder.yaml").write_text(placeholder)
    (tmp / "CKPT+text").mkdir()
    for name in ("CKPT.yaml", "model.ckpt", "normalize.ckpt"):
        (tmp / "CKPT+text" / name).write_text("unixtime: 1")
    shutil.copy(ROOT / "hparams/pom.yaml", tmp / "CKPT+text/hyperparams.yaml")
    commands, folders = [], []
    for number, (stage, options, _) in enumerate(CASES.values()):
        given = {"output_folder": tmp / f"run{number}", "data_folder": corpus, **options}
        given = {
            key: value.format(**paths) if isinstance(value, str) else value
            for key, value in given.items()
        }
        commands.append(recipes.arguments(stage, **given))
        folders.append(given["output_folder"])
    results = zip(recipes.call_all(commands), folders, strict=True)
    return dict(zip(CASES, results, strict=True)), paths


@pytest.mark.parametrize("name", CASES)
def test_refused_in_one_line(recipes, outcomes, name):
    results, paths = outcomes
    (code, stderr), folder = results[name]
    recipes.check_refusal(code, stderr, *(part.format(**paths) for part in CASES[name][2]))
    folder = paths["tmp"] / folder
    assert not any(folder.glob("save/CKPT+*"))
    assert not (folder / "history.jsonl").is_file()


def test_refused_as_a_real_command(recipes, corpus, tmp_path):
    options = {"data_folder": tmp_path / "none", "output_folder": tmp_path / "run"}
    result = recipes.run([sys.executable, *recipes.arguments("bestrq", **options)])
    recipes.check_refusal(result.returncode, result.stderr, f"'{tmp_path / 'none'}'")
    options = {"data_folder": corpus, "output_folder": tmp_path / "run", "number_of_epoch": 2}
    result = recipes.run([sys.executable, *recipes.arguments("ctc", **options)])
    recipes.check_refusal(
        result.returncode, result.stderr, "--number_of_epoch: did you mean --number_of_epochs?"
    )
    assert not any((tmp_path / "run").glob("save/CKPT+*"))


# Runs a recipe with a fault in its preparation that the call has no part in.
FAULTY = """
import os, runpy, sys
import numpy
from speechbrain_pom.training import plan
plan._arrange = lambda *arguments: numpy.zeros(3) + numpy.zeros(4)
sys.argv[:1] = []
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_fault_in_the_preparation_keeps_its_traceback(recipes, corpus, tmp_path):
    """It may well be a ValueError: NumPy's are."""
    options = {"data_folder": corpus, "output_folder": tmp_path / "run"}
    command = [sys.executable, "-c", FAULTY, *recipes.arguments("bestrq", **options)]
    result = recipes.run(command)
    assert result.returncode == 1
    printed = result.stdout + result.stderr
    assert "Traceback" in printed
    assert "ValueError: operands could not be broadcast" in printed
    assert not any(line.startswith("error: ") for line in printed.splitlines())


@pytest.mark.slow
def test_refused_by_two_processes(recipes, tmp_path):
    options = {"data_folder": tmp_path / "none", "output_folder": tmp_path / "run"}
    result = recipes.run([*recipes.TORCHRUN, *recipes.arguments("bestrq", **options)])
    assert result.returncode != 0
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "none" in errors[0]

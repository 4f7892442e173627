"""Process groups under torchrun, and the output folder of a run."""

import json
import logging
import multiprocessing
import os
import re
import socket
import sys
from importlib.metadata import version

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_pom.runs import documents, launch
from speechbrain_pom.runs.experiment import load_experiment
from speechbrain_pom.runs.logs import ExperimentLogger
from speechbrain_pom.runs.options import parse_command_line
from speechbrain_pom.runs.report import describe
from speechbrain_pom.utils.errors import UserError

TOY = "output_folder: null\nattention_type: PoM\nseed: 1\nsub: {a: !ref <seed>}\n"


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(TOY, encoding="utf-8")
    return path


@pytest.fixture
def _restored_logging():
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = list(root.handlers), root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], sys.excepthook = handlers, hook
    root.setLevel(level)


@pytest.fixture
def torchrun(monkeypatch):
    """Pretend to be one of 2 processes on a machine with some GPUs."""

    def pretend(num_gpus, local_rank="0", num_local="2"):
        for name, value in (
            ("RANK", local_rank),
            ("LOCAL_RANK", local_rank),
            ("LOCAL_WORLD_SIZE", num_local),
            ("WORLD_SIZE", num_local),
        ):
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
        monkeypatch.setattr(launch, "ddp_init_group", lambda options: None)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: int(local_rank))
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: int(num_local))

    return pretend


def start(toy, *arguments):
    return launch.init_distributed(parse_command_line([str(toy), *arguments]))


def test_single_process_needs_nothing(toy):
    assert start(toy) == (0, 1, {})


@pytest.mark.parametrize(
    ("num_gpus", "arguments", "options"),
    [
        (0, [], {"device": "cpu", "distributed_backend": "gloo"}),
        (2, [], {"device": "cuda:1", "distributed_backend": "nccl"}),
        (2, ["--device", "cpu"], {"device": "cpu", "distributed_backend": "gloo"}),
        (2, ["--device", "cuda"], {"device": "cuda:1", "distributed_backend": "nccl"}),
        (2, ["--distributed_backend=gloo"], {"device": "cuda:1", "distributed_backend": "gloo"}),
    ],
)
def test_backend_and_device(toy, torchrun, num_gpus, arguments, options):
    torchrun(num_gpus, local_rank="1")
    assert start(toy, *arguments) == (1, 2, options)


def test_backend_of_the_yaml_is_honoured(toy, torchrun):
    toy.write_text(TOY + "distributed_backend: gloo\n")
    torchrun(2)
    assert start(toy).run_options == {"device": "cuda:0", "distributed_backend": "gloo"}


@pytest.mark.parametrize("local_rank", ["0", "1"])
@pytest.mark.parametrize(
    ("num_gpus", "arguments", "message"),
    [
        (1, [], "2 processes on this machine, but it has 1 GPUs: start torchrun with "
                "--nproc-per-node=1, or give --device cpu"),
        (0, ["--distributed_backend", "nccl"], "--distributed_backend nccl needs GPUs: "),
        (2, ["--device", "cuda:0"], "--device cuda:0 does not work under torchrun on this "),
        (0, ["--device", "cuda"], "--device cuda does not work under torchrun on this machine"),
    ],
)  # fmt: skip
def test_every_process_refuses_alike(toy, torchrun, num_gpus, arguments, message, local_rank):
    torchrun(num_gpus, local_rank)
    with pytest.raises(UserError) as error:
        start(toy, *arguments)
    assert message in str(error.value)


def process_main(rank, port, toy, out):
    """One of two processes, as torchrun starts them."""
    os.environ.update(
        {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        MASTER_ADDR="localhost",
        MASTER_PORT=str(port),
        CUDA_VISIBLE_DEVICES="",
    )
    torch.set_num_threads(1)
    request = parse_command_line([str(toy), f"--output_folder={out}"])
    process = launch.init_distributed(request)
    made_by = []
    experiment = load_experiment(request, lambda: made_by.append(rank) or "/mini", launch=process)
    folder = documents.prepare_output_folder(experiment, toy)
    total = torch.tensor([process.rank + 1.0])
    torch.distributed.all_reduce(total)
    ExperimentLogger(folder).log_stats({"epoch": 1, "lr": 1e-3}, {"loss": total.item()})
    (out / f"rank{rank}.json").write_text(
        json.dumps([experiment.hparams["data_folder"], made_by, describe(experiment)])
    )
    torch.distributed.destroy_process_group()


def test_two_gloo_processes_without_asking(toy, tmp_path):
    toy.write_text(TOY + "data_folder: null\ndemo: {seed: 2}\n", encoding="utf-8")
    out = tmp_path / "out"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=process_main, args=(rank, port, toy, out)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    results = [json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    # The demo's data are made by the first process and known to both.
    assert [result[:2] for result in results] == [["/mini", [0]], ["/mini", []]]
    rows = [line.split() for line in results[1][2].splitlines()]
    for row in ("processes 2 torchrun", "distributed_backend gloo torchrun", "device cpu torchrun"):
        assert rows.count(row.split()) == 1
    # 1 + 2 over the two ranks, written by one.
    assert (out / "train_log.txt").read_text() == "epoch: 1, lr: 1.00e-03 - train loss: 3.00\n"
    assert (out / "toy.yaml").is_file()


def prepare(toy, tmp_path, *arguments):
    script = tmp_path / "recipe.py"
    script.write_text("# the recipe\n", encoding="utf-8")
    request = parse_command_line([str(toy), *arguments])
    return documents.prepare_output_folder(load_experiment(request), script)


@pytest.mark.usefixtures("_restored_logging")
def test_output_folder_documents_the_run(toy, tmp_path):
    folder = tmp_path / "a=b" / "run 1"
    spec = "PoM(degree=3)*4 + RelPosMHAXL*8"
    arguments = (f"--output_folder={folder}", "--attention_type", spec, "--seed=7")
    assert prepare(toy, tmp_path, *arguments) == folder
    text = (folder / "hyperparams.yaml").read_text(encoding="utf-8")
    assert f"--attention_type '{spec}'" in text.splitlines()[0]
    assert str(toy) in text.splitlines()[1]
    saved = load_hyperpyyaml(text)
    expected = {"output_folder": str(folder), "attention_type": spec, "seed": 7, "sub": {"a": 7}}
    assert saved == expected
    assert (folder / "recipe.py").read_text() == "# the recipe\n"
    environment = (folder / "env.log").read_text()
    assert "SpeechBrain system description" in environment
    assert f"\ntorch=={version('torch')}\n" in environment  # whatever pip is in PATH
    assert sys.version in environment
    assert re.search(r"\nGit revision:\n\w+\n", environment)
    logging.getLogger("toy").info("a line")
    sys.excepthook(ValueError, ValueError("lost"), None)
    log = (folder / "log.txt").read_text()
    assert "a line" in log
    assert "ValueError: lost" in log


@pytest.mark.usefixtures("_restored_logging")
def test_the_same_command_changes_no_document(toy, tmp_path):
    folder = tmp_path / "run"
    stamps = []
    for _ in range(2):
        prepare(toy, tmp_path, f"--output_folder={folder}")
        files = ("hyperparams.yaml", "recipe.py", "env.log")
        stamps.append([(folder / name).stat().st_mtime_ns for name in files])
    assert stamps[0] == stamps[1]
    prepare(toy, tmp_path, f"--output_folder={folder}", "--seed=2")
    assert load_hyperpyyaml((folder / "hyperparams.yaml").read_text())["seed"] == 2


def test_output_folders_that_cannot_be_written(toy, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    hint = "give another one with --output_folder"
    with pytest.raises(UserError, match=rf"output folder '.*file' \(it is a file\): {hint}"):
        prepare(toy, tmp_path, f"--output_folder={tmp_path / 'file'}")
    with pytest.raises(UserError, match=rf"'.*file/x' \(Not a directory\): {hint}"):
        prepare(toy, tmp_path, f"--output_folder={tmp_path / 'file' / 'x'}")

    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    # Permissions do not bind the superuser, as which tests may run.
    monkeypatch.setattr(documents.tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match=rf"'.*new' \(Permission denied\): {hint}"):
        prepare(toy, tmp_path, f"--output_folder={tmp_path / 'new'}")


def test_output_folder_and_log_config_must_be_there(toy, tmp_path):
    with pytest.raises(UserError, match=r"toy\.yaml has no output_folder: give one"):
        prepare(toy, tmp_path)
    with pytest.raises(UserError, match=r"--log_config: no such file: 'nowhere\.yaml'"):
        prepare(toy, tmp_path, f"--output_folder={tmp_path / 'o'}", "--log_config=nowhere.yaml")


def test_the_group_is_left_at_the_end_unless_the_program_failed(
    toy, torchrun, monkeypatch, tmp_path
):
    at_exit = []
    monkeypatch.setattr(launch.atexit, "register", at_exit.append)
    torchrun(num_gpus=0)
    launch.init_distributed(parse_command_line([str(toy)]))
    assert at_exit == [launch.leave_group]
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    monkeypatch.setattr(sys, "last_value", RuntimeError("failed"), raising=False)
    launch.leave_group()
    assert torch.distributed.is_initialized()
    monkeypatch.delattr(sys, "last_value")
    launch.leave_group()
    assert not torch.distributed.is_initialized()
    launch.leave_group()  # nothing to leave

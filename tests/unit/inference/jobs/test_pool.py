"""Commands over many files: bad ones are named, dying processes take nothing else along."""

import argparse
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from speechbrain_pom.cli.parser import add_job_arguments
from speechbrain_pom.inference.jobs.pool import (
    find_audio,
    report_failures,
    run_jobs,
)
from speechbrain_pom.utils.errors import UserError

FILES = [Path(name) for name in ("good1", "bad", "good2", "killed", "good3", "good4")]


@dataclass
class Worker:
    """A worker by the names of its files."""

    loading: str = ""

    def __call__(self):
        if self.loading == "refused":
            raise UserError("no such model: 'x'")
        if self.loading == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return self.work

    def work(self, file):
        if file.name == "bad":
            raise UserError("truncated: restore it")
        if file.name == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if file.name.startswith("slow"):
            time.sleep(60)
        return file.name, os.getpid(), torch.get_num_threads()


def run(files, num_jobs, worker=None, **options):
    results = {}
    failures = run_jobs(
        files, worker or Worker(), num_jobs, "test", False, on_result=results.__setitem__, **options
    )
    return failures, results


@pytest.fixture
def folder(tmp_path):
    for name in ("b/2.flac", "b/1.WAV", "b/.hidden.wav", "a.ogg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(files, folder):
    return [file.relative_to(folder).as_posix() for file in files]


def test_files_keep_their_order_and_folders_are_sorted(folder):
    found = find_audio([folder / "b", folder / "a.ogg"])
    assert names(found, folder) == ["b/1.WAV", "b/2.flac", "a.ogg"]
    assert names(find_audio([str(folder)]), folder) == ["a.ogg", "b/1.WAV", "b/2.flac"]


def test_each_file_once_and_any_file_that_is_named(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert find_audio(["b/2.flac", folder / "b", "b/../b/1.WAV", "notes.txt"]) == [
        Path("b/2.flac"),
        folder / "b/1.WAV",
        Path("notes.txt"),
    ]


def test_audio_that_is_left_out_of_a_folder_is_named(folder, caplog):
    (folder / "b/talk.bin").write_bytes(b"fLaC" + bytes(100))
    assert folder / "b/talk.bin" not in find_audio([folder])
    assert f"{folder}: 1 file(s) hold audio, but do not end as audio files do" in caplog.text
    assert caplog.text.endswith("rename b/talk.bin\n")
    assert find_audio([folder / "b/talk.bin"]) == [folder / "b/talk.bin"]


def test_paths_that_cannot_be(folder):
    with pytest.raises(UserError, match=r"no such file or folder: '.*nowhere\.wav'"):
        find_audio([folder / "nowhere.wav"])
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="empty' holds no audio files"):
        find_audio([folder / "empty"])


def test_bad_files_are_named_and_the_rest_go_on():
    files = [file for file in FILES if file.name != "killed"]
    failures, results = run(files, 1)
    assert failures == [(Path("bad"), "truncated: restore it")]
    assert [file.name for file in results] == ["good1", "good2", "good3", "good4"]
    assert {pid for _, pid, _ in results.values()} == {os.getpid()}


def test_errors_without_a_sentence_of_their_own_show_their_type():
    def work(file):
        return {"key": KeyError("frames"), "memory": RuntimeError("out of\nmemory")}[file.name]

    def raising(file):
        raise work(file)

    failures = run_jobs([Path("key"), Path("memory")], lambda: raising, 1, "test", False)
    assert [text for _, text in failures] == ["KeyError: frames", "out of memory"]


def test_several_processes_survive_the_death_of_one():
    failures, results = run(FILES, 2)
    assert failures == [
        (Path("bad"), "truncated: restore it"),
        (
            Path("killed"),
            "its process was killed by SIGKILL: is memory short? try fewer processes",
        ),
    ]
    assert sorted(name for name, *_ in results.values()) == ["good1", "good2", "good3", "good4"]
    assert os.getpid() not in {pid for _, pid, _ in results.values()}
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_threads_do_not_depend_on_the_number_of_processes(monkeypatch, num_jobs):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = torch.get_num_threads()
    _, results = run([Path("good1"), Path("good2")], num_jobs)
    assert {threads for *_, threads in results.values()} == {3}
    assert torch.get_num_threads() == before


def test_no_process_can_load():
    files = [Path("good1"), Path("good2")]
    failures, results = run(files, 2, Worker("killed"))
    assert not results
    assert [file for file, _ in failures] == files
    assert failures[0][1].startswith("not begun, no process could start: its process was killed")


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_a_model_that_is_refused_ends_the_command(num_jobs):
    with pytest.raises(UserError, match="no such model: 'x'"):
        run(FILES, num_jobs, Worker("refused"))
    assert not multiprocessing.active_children()


def test_number_of_processes():
    with pytest.raises(UserError, match="--jobs is 0: give at least 1"):
        run(FILES, 0)
    assert run([], 2) == ([], {})


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl_c", "sigterm"]
)
@pytest.mark.parametrize("num_jobs", [1, 2])
def test_signals_end_all_processes(number, code, num_jobs):
    former, start_s = signal.getsignal(signal.SIGTERM), time.monotonic()
    with pytest.raises(SystemExit) as stop:
        run_jobs(
            [Path("good"), Path("slow1"), Path("slow2")],
            Worker(),
            num_jobs,
            "test",
            False,
            on_result=lambda *_: signal.raise_signal(number),
        )
    assert stop.value.code == code
    assert time.monotonic() - start_s < 40
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGTERM) is former


def test_progress_is_shown_on_stderr(capsys):
    run_jobs([Path("good")], Worker(), 1, "encoding")
    output = capsys.readouterr()
    assert "encoding: 100%" in output.err
    assert not output.out


def test_report(capsys):
    assert report_failures([]) == 0
    assert report_failures([(Path("x/a.wav"), "empty"), (Path("b.wav"), "cut")]) == 1
    assert capsys.readouterr().err == "failed: x/a.wav: empty\nfailed: b.wav: cut\n"


def test_arguments():
    parser = argparse.ArgumentParser()
    add_job_arguments(parser)
    assert vars(parser.parse_args([])) == {"jobs": 1, "device": None, "batch_s": None}
    assert parser.parse_args(["--jobs", "2", "--device", "cpu"]).jobs == 2

"""`transcribe --stream`: events of a file or of raw PCM on stdin."""

import json
import os
import signal
import subprocess
import sys

import pytest
import soundfile
import torch
from safetensors.torch import load_file

from speechbrain_pom.__main__ import main
from speechbrain_pom.inference import load_recogniser
from speechbrain_pom.inference.jobs import streaming
from speechbrain_pom.inference.streaming.events import Final, event_record
from tests.helpers import ROOT
from tests.helpers.sounds import sound

SECONDS = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory, make_run):
    """A run of fine-tuning with random weights, which says something of noise."""
    folder = tmp_path_factory.mktemp("models") / "run"
    make_run(folder, "ctc")
    return str(folder)


@pytest.fixture(scope="module")
def pcm():
    return (sound(16000 * SECONDS, seed=3) * 32768).clamp(-32768, 32767).to(torch.int16)


@pytest.fixture
def talk(tmp_path, pcm):
    path = tmp_path / "talk.wav"
    soundfile.write(path, pcm.numpy(), 16000, subtype="PCM_16")
    return str(path)


@pytest.fixture
def give_stdin(tmp_path, monkeypatch):
    def give(data):
        (tmp_path / "stdin").write_bytes(data)
        monkeypatch.setattr(sys, "stdin", open(tmp_path / "stdin", "rb"))  # noqa: SIM115

    return give


def wanted(model, pcm, **options):
    """Events of the stream, in Python."""
    stream = load_recogniser(model).stream(**options)
    return [*stream.accept(pcm), *stream.finish()]


def without_times(records):
    return [{key: value for key, value in one.items() if key != "audio_s"} for one in records]


def records_of(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def call(*arguments):
    return main(["transcribe", *arguments, "--device", "cpu"])


def test_events_of_a_file(model, talk, pcm, capsys):
    options = ["--chunk_s", "0.32", "--left_s", "0.64", "--pause_s", "0.2", "--format", "json"]
    assert call(model, "--stream", talk, *options) == 0
    found = records_of(capsys)
    events = wanted(model, pcm, chunk_s=0.32, left_s=0.64, pause_s=0.2)
    assert without_times(found) == without_times(event_record(event, 0.0) for event in events)
    assert {record["type"] for record in found} == {"partial", "final"}
    times = [record["audio_s"] for record in found]
    assert times == sorted(times)
    assert times[-1] == SECONDS
    assert len(set(times)) > 5  # as it was heard, and not at the end


LONG = {"half_life_s": 0.5, "reset_at_pauses": True}


def test_options_of_long_streams(model, talk, pcm, capsys):
    options = ["--half_life_s", "0.5", "--reset_at_pauses", "--pause_s", "0.2", "--format", "json"]
    assert call(model, "--stream", talk, *options) == 0
    expected = [event_record(event, 0.0) for event in wanted(model, pcm, pause_s=0.2, **LONG)]
    assert without_times(records_of(capsys)) == without_times(expected)


def test_a_long_stream_of_several_calls(model, tmp_path, pcm, capsys, give_stdin):
    """The state knows its options; those that are given again have to be the same."""
    data, state, found = pcm.numpy().tobytes(), tmp_path / "state", []
    call_it = ["--stream", "-", "--state", str(state), "--format", "json"]
    options = ["--half_life_s", "0.5", "--reset_at_pauses", "--pause_s", "0.2"]
    for part, more in ((data[:90_001], options), (data[90_001:], [*options, "--finish"])):
        give_stdin(part)
        assert call(model, *call_it, *more) == 0
        found += records_of(capsys)
    expected = [event_record(event, 0.0) for event in wanted(model, pcm, pause_s=0.2, **LONG)]
    assert without_times(found) == without_times(expected)
    give_stdin(data[:90_001])
    assert call(model, *call_it, *options) == 0
    saved = load_file(state)
    assert saved["text.options"].tolist() == [5, 750, 0, 1]
    assert saved["half_life"].tolist() == [0.5 / 0.64]
    give_stdin(data[90_001:])
    with pytest.raises(SystemExit):
        call(model, *call_it, "--half_life_s", "3")
    assert "leave chunk_s, left_s and half_life_s out to go on" in capsys.readouterr().err


def test_text_is_the_finals(model, talk, pcm, capsys):
    assert main(["transcribe", model, "--device", "cpu", "--stream", talk]) == 0
    printed = capsys.readouterr()
    finals = [event.text for event in wanted(model, pcm) if isinstance(event, Final)]
    assert printed.out.splitlines() == finals
    assert printed.err == ""  # no terminal


def test_partials_on_a_terminal(model, talk, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert call(model, "--stream", talk) == 0
    assert "\r\x1b[K" in capsys.readouterr().err


@pytest.mark.parametrize("rate", [8000, 48000])
def test_stdin_of_any_rate_is_as_a_file(model, tmp_path, capsys, give_stdin, rate):
    wav = (9000 * torch.randn(2 * rate, 2)).to(torch.int16)
    soundfile.write(tmp_path / "a.wav", wav.numpy(), rate, subtype="PCM_16")
    assert call(model, "--stream", str(tmp_path / "a.wav"), "--format", "json") == 0
    expected = records_of(capsys)
    give_stdin(wav.numpy().tobytes())
    stdin = ["--stream", "-", "--rate", str(rate), "--channels", "2"]
    assert call(model, *stdin, "--format", "json") == 0
    found = records_of(capsys)
    assert [record["stable"] for record in found] == [record["stable"] for record in expected]
    assert found[-1]["type"] == "final"


@pytest.mark.parametrize("commit", [[], ["--commit_s", "0.4"]])
def test_beam_search(model, talk, capsys, commit):
    assert call(model, "--stream", talk, "--beam_size", "4", *commit) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("form", ["s16le", "f32le"])
def test_a_stream_of_several_calls(model, tmp_path, pcm, capsys, give_stdin, form):
    data = pcm.numpy().tobytes()
    if form == "f32le":
        data = (pcm.float() / 32768).numpy().tobytes()
    state, found = tmp_path / "state", []
    options = ["--stream", "-", "--pcm", form, "--state", str(state), "--format", "json"]
    parts = data[:50_001], data[50_001:100_003], data[100_003:]
    for part, last in zip(parts, ([], [], ["--finish"]), strict=True):
        give_stdin(part)
        assert call(model, *options, *last) == 0
        found += records_of(capsys)
        assert state.exists() == (last == [])
    expected = [event_record(event, 0.0) for event in wanted(model, pcm)]
    assert without_times(found) == without_times(expected)


def test_states_that_cannot_be_used(model, tmp_path, capsys, give_stdin):
    give_stdin(b"")
    (tmp_path / "state").write_bytes(b"nothing")
    with pytest.raises(SystemExit):
        call(model, "--stream", "-", "--state", str(tmp_path / "state"))
    message = capsys.readouterr().err
    assert "cannot be read" in message
    assert "remove it to begin" in message


def test_a_slow_machine_is_told_once(model, talk, capsys, give_stdin, pcm, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(streaming.time, "monotonic", lambda: 3.0 * next(clock))
    monkeypatch.setattr(streaming, "_READ_BYTES", 8000)
    give_stdin(pcm.numpy().tobytes())
    assert call(model, "--stream", "-") == 0
    assert capsys.readouterr().err.count("s behind the audio: choose longer chunks") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stream", "a.wav", "b.wav"], "--stream is of one source, and 'b.wav' is another"),
        (["--stream", "a.wav", "--out", "x"], "--out is for files"),
        (["--stream", "a.wav", "--jobs", "2"], "--jobs is for files"),
        (["--stream", "a.wav", "--format", "srt"], "--format srt of a stream: give one of text"),
        (["--stream", "a.wav", "--rate", "8000"], "--rate is for raw PCM on stdin: 'a.wav' says"),
        (["--stream", "a.wav", "--finish"], "--finish ends a stream of several calls"),
        (["--stream", "none.wav"], "none.wav"),
        (["a.wav", "--chunk_s", "0.32"], "--chunk_s is for streams: call with --stream"),
        (["a.wav", "--reset_at_pauses"], "--reset_at_pauses is for streams: call with --stream"),
        (["--stream", "-", "--commit_s", "2"], "commit_s is for beam search, and this decoding"),
        (["--stream", "-", "--half_life_s", "0"], "half_life_s is 0.0: give seconds, more than 0"),
        (["--stream", "-", "--half_life_s", "9", "--left_s", "0"], "both limit the past, give one"),
        (["-"], "no such file or folder: '-'"),
        (["--stream", "-", "--chunk_s", "0.05"], "chunk_s is 0.05: give a multiple of 0.04 s"),
    ],
)
def test_calls_that_cannot_work(model, capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        call(model, *arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_audio_files_on_stdin_and_other_rates(model, talk, capsys, give_stdin):
    with open(talk, "rb") as file:
        give_stdin(file.read())
    with pytest.raises(SystemExit):
        call(model, "--stream", "-")
    assert "as a WAV file does, and raw PCM is read" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_and_a_closed_stdout(model, pcm):
    """Of real programs: bytes split inside of a sample, SIGINT, and nobody who reads."""
    command = [sys.executable, "-m", "speechbrain_pom", "transcribe", model, "--stream", "-"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    options = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, **pipes}
    first = subprocess.Popen([*command, "--format", "json", "--device", "cpu"], **options)
    second = subprocess.Popen([*command, "--format", "json", "--device", "cpu"], **options)
    data = pcm.numpy().tobytes()
    second.stdout.close()
    for start in range(0, len(data), 33_333):
        first.stdin.write(data[start : start + 33_333])
        first.stdin.flush()
    lines = [first.stdout.readline()]  # it has begun to recognise
    first.send_signal(signal.SIGINT)
    lines += first.stdout.read().splitlines()
    assert first.wait() == 0, first.stderr.read()
    assert first.stderr.read() == b""
    records = [json.loads(line) for line in lines]
    assert records[-1]["type"] == "final"
    _, errors = second.communicate(data)
    assert (second.returncode, errors) == (0, b"")

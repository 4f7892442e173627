"""The page and its streams, as a browser asks for them."""

import json
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest
import torch

from speechbrain_pom.__main__ import main
from speechbrain_pom.inference import load_recogniser
from speechbrain_pom.inference.jobs import serving
from speechbrain_pom.inference.jobs.streaming import Streaming
from speechbrain_pom.inference.streaming.events import event_record
from speechbrain_pom.utils.errors import UserError
from tests.helpers import ROOT
from tests.helpers.sounds import sound

OPTIONS = Streaming("-", chunk_s=0.32, pause_s=0.2)


@pytest.fixture
def connect():
    return pytest.importorskip("websockets.sync.client", reason="the extra serve").connect


@pytest.fixture
def recogniser(finetuned_run):
    return load_recogniser(finetuned_run)


@pytest.fixture
def address(recogniser, connect):
    """HOST:PORT of a server."""
    server = serving.make_server(recogniser, "127.0.0.1", 0, OPTIONS)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.socket.getsockname()[1]}"
    server.shutdown()
    thread.join()


def wanted(recogniser, pcm):
    stream = recogniser.stream(chunk_s=0.32, pause_s=0.2)
    return [event_record(event, 0.0) for event in [*stream.accept(pcm), *stream.finish()]]


def without_times(records):
    return [{key: value for key, value in one.items() if key != "audio_s"} for one in records]


def say(connection, data, size=3200):
    """All events of a stream in messages of some bytes."""
    for start in range(0, len(data), size):
        connection.send(data[start : start + size])
    connection.send("finish")
    return [json.loads(message) for message in connection]


def test_streams_of_several_clients(address, recogniser, connect):
    wavs = [sound(40_000, seed).clamp(-1, 1) for seed in (0, 1)]
    pcm = [(wav * 32767).to(torch.int16) for wav in wavs]
    found = [None, None]

    def talk(number):
        with connect(f"ws://{address}/stream") as connection:
            found[number] = say(connection, pcm[number].numpy().tobytes(), 3201 + number)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(2):
        expected = wanted(recogniser, pcm[number])
        assert [one["stable"] for one in found[number]] == [one["stable"] for one in expected]
        assert found[number][-1]["type"] == "final"


def test_samples_as_a_browser_has_them(address, connect):
    """fp32 at 48 kHz, with an event before all has been said."""
    wav = sound(3 * 48_000)
    with connect(f"ws://{address}/stream?pcm=f32le&rate=48000") as connection:
        for part in wav[:100_000].split(128):
            connection.send(part.numpy().tobytes())
        first = json.loads(connection.recv(timeout=60))
        assert first["audio_s"] < 100_000 / 48_000
        rest = say(connection, wav[100_000:].numpy().tobytes())
    assert rest[-1]["audio_s"] == pytest.approx(3.0)


def exchange(connection, message):
    """Send and receive; the server may have closed the connection before."""
    connection.send(message)
    return connection.recv(timeout=60)


@pytest.mark.parametrize(
    ("query", "message", "reason"),
    [
        ("?rate=fast", b"\0\0\0\0", "rate is 'fast': give a whole number of at least 1"),
        ("?pcm=mp3", b"\0\0\0\0", "pcm is 'mp3': give s16le or f32le"),
        ("?speed=2", b"\0\0\0\0", "unknown option 'speed': there are pcm, rate, channels"),
        ("", b"RIFF\0\0", "the input begins with b'RIFF', as a WAV file does"),
        ("", "louder", "a text message 'louder': send PCM, or 'finish'"),
        ("?pcm=f32le", b"\0\0\xc0\x7f" * 4, "packet has samples that are NaN"),
    ],
)
def test_what_is_no_stream_is_told_why(address, connect, query, message, reason):
    from websockets.exceptions import ConnectionClosedError

    connection = connect(f"ws://{address}/stream{query}")
    with connection, pytest.raises(ConnectionClosedError) as error:
        exchange(connection, message)
    assert error.value.rcvd.code == 1008
    assert error.value.rcvd.reason.startswith(reason)
    with connect(f"ws://{address}/stream") as connection:  # the server goes on
        assert say(connection, b"") == []


def test_no_more_streams_than_there_is_room_for(recogniser, connect, monkeypatch):
    from websockets.exceptions import ConnectionClosed

    monkeypatch.setattr(serving, "MAX_STREAMS", 1)
    server = serving.make_server(recogniser, "127.0.0.1", 0, OPTIONS)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    place = f"ws://127.0.0.1:{server.socket.getsockname()[1]}/stream"
    pcm = (sound(40_000).clamp(-1, 1) * 32767).to(torch.int16)
    with connect(place) as first:
        first.send(pcm.numpy().tobytes())
        first.recv(timeout=60)  # it has the place by now
        with connect(place) as second, pytest.raises(ConnectionClosed) as error:
            second.recv(timeout=60)
        assert error.value.rcvd.reason == "1 streams are open: try later"
        assert say(first, b"")
    with connect(place) as third:
        assert say(third, b"") == []
    server.shutdown()
    thread.join()


def test_the_page(address):
    with urllib.request.urlopen(f"http://{address}/?a=b") as response:
        page = response.read().decode()
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "getUserMedia" in page
    assert "innerHTML" not in page  # what is said is text, whatever it is
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://{address}/secrets")


def test_pages_of_other_sites_hear_nothing(address, connect):
    from websockets.exceptions import InvalidStatus

    with connect(f"ws://{address}/stream", origin=f"http://{address}") as connection:
        assert say(connection, b"") == []
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://{address}/stream", origin="http://elsewhere.example")


@pytest.mark.parametrize("address", ["8000", "localhost", ":80", "localhost:http", "a:70000"])
def test_addresses_that_cannot_be(address):
    with pytest.raises(UserError, match=f"--serve {address}: give HOST:PORT"):
        serving.parse_address(address)


def test_an_address_that_is_taken(address, recogniser):
    host, port = serving.parse_address(address)
    with pytest.raises(UserError, match=r"cannot be used \(.*\): give another"):
        serving.make_server(recogniser, host, port, OPTIONS)


def test_a_model_of_another_sample_rate(recogniser, connect):
    recogniser.encoder.features.sample_rate = 8000
    with pytest.raises(UserError, match="the model reads 8000 Hz, and PCM is converted to 16000"):
        serving.make_server(recogniser, "127.0.0.1", 0, OPTIONS)


def test_without_the_package(recogniser, monkeypatch):
    monkeypatch.setitem(sys.modules, "websockets.sync.server", None)
    with pytest.raises(UserError, match=r'pip install "speechbrain-pom\[serve\]"'):
        serving.make_server(recogniser, "127.0.0.1", 0, OPTIONS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--serve", "--stream", "a.wav"], "--serve stands in place of files and --stream"),
        (["a.wav", "--serve"], "--serve stands in place of files and --stream"),
        (["--serve", "--state", "a"], "--state is not for --serve: leave it out"),
        (["--serve", "here"], "--serve here: give HOST:PORT"),
        (["--serve", "--chunk_s", "0.05"], "chunk_s is 0.05: give a multiple"),
    ],
)
def test_calls_that_cannot_work(finetuned_run, capsys, connect, arguments, message):
    with pytest.raises(SystemExit) as error:
        main(["transcribe", str(finetuned_run), *arguments, "--device", "cpu"])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_the_command(finetuned_run, connect):
    command = [sys.executable, "-m", "speechbrain_pom", "transcribe", str(finetuned_run)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT, "text": True}
    program = subprocess.Popen([*command, "--serve", "127.0.0.1:0", "--device", "cpu"], **options)
    port = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\n", program.stdout.readline())[1]
    with connect(f"ws://127.0.0.1:{port}/stream") as connection:
        assert say(connection, b"") == []
    program.send_signal(signal.SIGINT)
    assert program.communicate() == ("", "Ctrl-C ends it\n")
    assert program.returncode == 0

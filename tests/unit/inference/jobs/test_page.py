"""The page of `transcribe --serve` in a browser whose microphone is a file."""

import base64
import os
import threading
import wave
from pathlib import Path

import pytest
import torch

from speechbrain_pom.inference.jobs import serving
from speechbrain_pom.inference.jobs.streaming import Streaming
from speechbrain_pom.inference.streaming import Final
from tests.helpers.browser import Browser, find_chromium
from tests.helpers.sounds import sound

pytestmark = pytest.mark.slow  # a browser, and speech that takes its time

OPTIONS = Streaming("-", chunk_s=0.32, pause_s=0.2)
RATE = 16_000
DURATION_S = 6


@pytest.fixture
def heard(recogniser, monkeypatch):
    """The samples that the streams of this recogniser are given."""
    packets, open_stream = [], recogniser.stream

    def recorded(*args, **kwargs):
        stream = open_stream(*args, **kwargs)
        accept = stream.accept
        stream.accept = lambda packet: (packets.append(packet), accept(packet))[1]
        return stream

    monkeypatch.setattr(recogniser, "stream", recorded)
    yield packets
    monkeypatch.undo()


@pytest.fixture
def address(recogniser, heard):
    pytest.importorskip("websockets.sync.server", reason="the extra serve")
    server = serving.make_server(recogniser, "127.0.0.1", 0, OPTIONS)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.socket.getsockname()[1]}/"
    server.shutdown()
    thread.join()


@pytest.fixture
def browser(tmp_path):
    pytest.importorskip("websockets.sync.client", reason="the extra serve")
    if find_chromium() is None:
        pytest.skip("no Chromium is installed")
    pcm = (sound(DURATION_S * RATE).clamp(-1, 1) * 32767).to(torch.int16)
    with wave.open(str(tmp_path / "microphone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(pcm.numpy().tobytes())
    with Browser(tmp_path / "profile", tmp_path / "microphone.wav") as browser:
        yield browser


def likeness(heard, said):
    """The highest correlation coefficient over all delays."""
    size = len(heard) + len(said)
    spectra = torch.fft.rfft(heard, size) * torch.fft.rfft(said, size).conj()
    return float(torch.fft.irfft(spectra, size).abs().max() / (heard.norm() * said.norm()))


def test_what_is_said_becomes_text(browser, address, recogniser, heard, tmp_path):
    browser.open(address)
    assert browser.evaluate("byId('state').textContent") == ""
    browser.evaluate("byId('toggle').click()")
    browser.wait_for("byId('state').textContent === 'listening'")
    browser.wait_for("byId('stable').textContent || byId('finals').children.length")
    while sum(map(len, heard)) < DURATION_S * RATE:
        browser.wait_for("byId('state').textContent === 'listening'")
    browser.evaluate("byId('toggle').click()")
    browser.wait_for("byId('state').textContent === 'stopped'")
    assert browser.evaluate("byId('toggle').textContent") == "Start"
    if folder := os.environ.get("SPEECHBRAIN_POM_SCREENSHOTS"):
        Path(folder, "page.png").write_bytes(base64.b64decode(browser.screenshot()))

    samples = torch.cat(heard)
    assert likeness(samples, sound(DURATION_S * RATE)) > 0.9
    heard.clear()
    stream = recogniser.stream(0.32, None, 0.2)
    events = [*stream.accept(samples), *stream.finish()]
    wanted = [event.text for event in events if isinstance(event, Final)]
    assert len(wanted) > 1
    lines = "[...byId('finals').children].map((line) => line.textContent)"
    assert browser.evaluate(lines) == wanted


@pytest.mark.usefixtures("heard")
def test_talks_that_end_in_other_ways(browser, address):
    """Begun again, and refused by the server."""
    from websockets.sync.client import connect

    browser.open(address)
    click = "byId('toggle').click()"
    for _ in range(2):
        browser.evaluate(click)
        browser.wait_for("byId('state').textContent === 'listening'")
        browser.evaluate(click)
        browser.wait_for("byId('state').textContent === 'stopped'")
    others = [connect(address.replace("http", "ws") + "stream") for _ in range(serving.MAX_STREAMS)]
    browser.evaluate(click)
    browser.wait_for("byId('state').textContent === '16 streams are open: try later'")
    assert browser.evaluate("running === null && byId('toggle').textContent === 'Start'")
    for other in others:
        other.close()

"""Streams of many browsers: a page with a microphone, and a WebSocket for each stream.

`ws://HOST:PORT/stream?pcm=s16le&rate=16000&channels=1` takes raw PCM in binary messages and sends
events as JSON, those of `transcribe --stream --format json`; the text "finish" ends the stream, and
the server closes the connection after its last event.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from torch import Tensor

from speechbrain_pom.ctc.decoding import make_beam_searcher
from speechbrain_pom.data.audio.files import SAMPLE_RATE
from speechbrain_pom.data.audio.pcm import PcmReader
from speechbrain_pom.encoder.streaming.geometry import DEFAULT_CHUNK_S
from speechbrain_pom.inference.jobs.streaming import Streaming, check_rate
from speechbrain_pom.inference.recogniser import SpeechRecogniser, load_recogniser
from speechbrain_pom.inference.streaming.events import event_record
from speechbrain_pom.utils.errors import UserError, one_line

if TYPE_CHECKING:
    from websockets.http11 import Request, Response
    from websockets.sync.server import Server, ServerConnection

DEFAULT_ADDRESS = "127.0.0.1:8000"
MAX_STREAMS = 16
FINISH = "finish"
_PATH = "/stream"
_REFUSED = 1008  # a close code of WebSockets: what came is against the rules
_BUSY = 1013
_MAX_BYTES = 2**20  # of a message


def serve_streams(model: str, device: str, address: str, options: Streaming) -> int:
    """Serve the page and its streams until Ctrl-C; return the exit code.

    Arguments
    ---------
    model : str
        Run of fine-tuning, checkpoint in it, or exported folder.
    device : str
    address : str
        HOST:PORT.
    options : Streaming
        Chunks, pauses and decoding of all streams.

    Returns
    -------
    int

    Raises
    ------
    UserError
        If the address or the model cannot be used, or the package `websockets` is missing.
    """
    host, port = parse_address(address)
    recogniser = load_recogniser(model, device)
    server = make_server(recogniser, host, port, options)
    stop = threading.Event()
    former = signal.signal(signal.SIGINT, lambda *_: stop.set())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    host = f"[{host}]" if ":" in host else host
    print(f"http://{host}:{server.socket.getsockname()[1]}/", flush=True)
    print("Ctrl-C ends it", file=sys.stderr, flush=True)
    try:
        stop.wait()
    finally:
        signal.signal(signal.SIGINT, former)
        server.shutdown()
        thread.join()
    return 0


def parse_address(address: str) -> tuple[str, int]:
    """HOST:PORT as a host and a number; a `UserError` for anything else.

    >>> parse_address("0.0.0.0:8000"), parse_address("[::1]:0")
    (('0.0.0.0', 8000), ('::1', 0))
    """
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise UserError(f"--serve {address}: give HOST:PORT, such as {DEFAULT_ADDRESS}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def make_server(recogniser: SpeechRecogniser, host: str, port: int, options: Streaming) -> Server:
    """A server that listens, for `serve_forever` and `shutdown`.

    Arguments
    ---------
    recogniser : SpeechRecogniser
        In eval mode.
    host : str
    port : int
        0: any that is free.
    options : Streaming

    Returns
    -------
    websockets.sync.server.Server

    Raises
    ------
    UserError
        If the model cannot stream so, the address is taken, or `websockets` is missing.
    """
    try:
        from websockets.sync.server import serve
    except ImportError as error:
        raise UserError(
            'serving needs the package websockets: pip install "speechbrain-pom[serve]"'
        ) from error
    check_rate(recogniser)
    service = _Service(recogniser, options)
    service.open_stream()  # refuses at once what cannot stream
    try:
        return serve(
            service.handle, host, port, process_request=service.answer, max_size=_MAX_BYTES
        )
    except OSError as error:
        raise UserError(
            f"--serve {host}:{port} cannot be used ({one_line(error)}): give another"
        ) from error


class _Service:
    """What the server does with requests."""

    def __init__(self, recogniser, options):
        self._recogniser, self._options = recogniser, options
        self._decode = options.beam and make_beam_searcher(recogniser.units, **options.beam)
        self._free = threading.BoundedSemaphore(MAX_STREAMS)

    def open_stream(self):
        options = self._options
        chunk_s = options.chunk_s or DEFAULT_CHUNK_S
        return self._recogniser.stream(chunk_s, **options.of_stream, decode=self._decode)

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """The page for its address, None for a stream, which `handle` gets."""
        path = urlsplit(request.path).path
        if path == _PATH:
            if _is_of_another_site(request):
                return connection.respond(HTTPStatus.FORBIDDEN, "not from another site\n")
            return None
        if path != "/":
            return connection.respond(HTTPStatus.NOT_FOUND, "nothing is here\n")
        page = resources.files("speechbrain_pom.inference.streaming").joinpath("page.html")
        response = connection.respond(HTTPStatus.OK, page.read_text(encoding="utf-8"))
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "text/html; charset=utf-8"
        return response

    def handle(self, connection: ServerConnection) -> None:
        """One stream, from its first message to its last event."""
        if not self._free.acquire(blocking=False):
            connection.close(_BUSY, f"{MAX_STREAMS} streams are open: try later")
            return
        try:
            self._recognise(connection)
        except UserError as error:
            connection.close(_REFUSED, one_line(error)[:100])
        finally:
            self._free.release()

    def _recognise(self, connection):
        pcm = _pcm_of(connection.request.path)
        stream = self.open_stream()

        def send(events):
            for event in events:
                record = event_record(event, stream.duration_s)
                connection.send(json.dumps(record, ensure_ascii=False))

        def accept(samples: Tensor):
            send(stream.accept(samples))

        for message in connection:
            if isinstance(message, bytes):
                accept(pcm.accept(message))
            elif message == FINISH:
                accept(pcm.finish())
                send(stream.finish())
                return
            else:
                raise UserError(f"a text message {message[:20]!r}: send PCM, or {FINISH!r}")


def _pcm_of(path):
    given = dict(parse_qsl(urlsplit(path).query))
    form = given.pop("pcm", "s16le")
    numbers = {"rate": SAMPLE_RATE, "channels": 1}
    for name in numbers:
        text = given.pop(name, str(numbers[name]))
        numbers[name] = int(text) if text.isascii() and text.isdigit() else text
    if given:
        raise UserError(f"unknown option {next(iter(given))!r}: there are pcm, rate, channels")
    return PcmReader(form, **numbers)


def _is_of_another_site(request):
    """Whether a page of another site asks: it could listen to what is said here."""
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("Host")

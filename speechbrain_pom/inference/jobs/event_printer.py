"""How the events of a stream are printed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys

from speechbrain_pom.inference.streaming.events import Event, Final, event_record


class EventPrinter:
    """Events on stdout; in text format partials on stderr, where that is a terminal.

    Arguments
    ---------
    form : str
        "text" or "json".

    Attributes
    ----------
    closed : bool
        Whether nobody reads stdout any more.

    Example
    -------
    >>> from speechbrain_pom.inference.streaming.events import Partial
    >>> EventPrinter("json").show([Partial(0, "GOOD", "MOR", 0.52, 0.96)], 1.28)
    {"type": "partial", "segment": 0, "start_s": 0.52, "end_s": 0.96, "audio_s": 1.28, \
"stable": "GOOD", "tail": "MOR"}
    """

    def __init__(self, form: str) -> None:
        self.closed = False
        self._form = form
        self._shows_partials = form == "text" and sys.stderr.isatty()

    def show(self, events: list[Event], audio_s: float) -> None:
        """Print what came when so many seconds had been heard."""
        for event in events:
            if self._form == "json":
                self._print(json.dumps(event_record(event, audio_s), ensure_ascii=False))
            elif isinstance(event, Final):
                self._show_partial("")
                self._print(event.text)
            else:
                self._show_partial(event.text)

    def _show_partial(self, text):
        if self._shows_partials:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{text[-width:]}")
            sys.stderr.flush()

    def _print(self, line):
        if self.closed:
            return
        try:
            print(line, flush=True)
        except BrokenPipeError:
            self.closed = True
            # Python flushes stdout once more at its end, and would complain.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def close(self) -> None:
        """Clear the line of partials."""
        self._show_partial("")

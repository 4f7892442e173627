"""A headless Chromium, with a WAV file as its microphone, driven over its debugging protocol."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time

PROGRAMS = "chromium", "chromium-browser", "google-chrome", "chrome"


def find_chromium() -> str | None:
    """The path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """One page of a browser that is asked for nothing and hears a file, once, or nothing.

    Arguments
    ---------
    folder : Path
        For its profile.
    microphone : Path, optional
        WAV file.
    """

    def __init__(self, folder, microphone="/dev/null"):
        from websockets.sync.client import connect

        self._program = subprocess.Popen(
            [
                *(find_chromium(), "--headless", "--no-sandbox", "--disable-gpu"),
                *("--no-first-run", "--disable-dev-shm-usage", f"--user-data-dir={folder}"),
                *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
                f"--use-file-for-fake-audio-capture={microphone}%noloop",
                *("--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank"),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        address = self._said(r"DevTools listening on (ws://\S+)")
        self._connection = connect(address, max_size=None)
        self._number = 0
        pages = self._call("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in pages if one["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._connection.close()
        self._program.terminate()
        self._program.communicate()

    def look(self, width: int, scheme: str = "light"):
        """From now on: the width of the window in pixels, and what the system prefers."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        preference = {"name": "prefers-color-scheme", "value": scheme}
        self._call("Emulation.setEmulatedMedia", features=[preference])

    def open(self, address: str):
        """Go there, and wait for the page."""
        self._call("Page.enable")
        self._call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, script: str):
        """The value of a script, which is run as a person's click would run it."""
        options = {"returnByValue": True, "userGesture": True, "awaitPromise": True}
        answer = self._call("Runtime.evaluate", expression=script, **options)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str, timeout_s: float = 60):
        """Until the script is true; return its value."""
        end = time.monotonic() + timeout_s
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, f"not within {timeout_s} s: {script}"
            time.sleep(0.1)
        return value

    def screenshot(self) -> str:
        """A PNG in base64."""
        return self._call("Page.captureScreenshot")["data"]

    def _said(self, pattern):
        for line in self._program.stderr:
            if match := re.search(pattern, line):
                return match[1]
        raise AssertionError("Chromium ended before it listened")

    def _call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        self._connection.send(json.dumps(message))
        for answer in map(json.loads, self._connection):
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
        raise AssertionError("Chromium closed the connection")

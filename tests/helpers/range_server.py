"""An object store for tests: HTTP with ranges, a delay, and answers that are cut or refused."""

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class RangeServer:
    """Serves the files of a folder on this machine, within a `with` block.

    Arguments
    ---------
    folder : str or pathlib.Path
    faults : list of str
        What happens to the first requests of ranges: "cut" (half an answer), "503", "close".
    delay_s : float
        Before each answer.
    """

    def __init__(self, folder, faults=(), delay_s=0.0):
        self.folder, self.faults, self.delay_s = Path(folder), list(faults), delay_s
        self.num_requests = self.at_work = self.most_at_once = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                outer.answer(self, head=True)

            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request, head=False):
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        with self.lock:
            fault = self.faults.pop(0) if self.faults and wanted else None
            self.num_requests += bool(wanted)
            self.at_work += 1
            self.most_at_once = max(self.most_at_once, self.at_work)
        time.sleep(self.delay_s)
        with self.lock:
            self.at_work -= 1
        path = self.folder / request.path.lstrip("/")
        if fault == "503" or not path.is_file():
            request.send_response(503 if fault else 404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        content = path.read_bytes()
        if wanted:
            start, last = map(int, wanted.groups())
            total, content = len(content), content[start : last + 1]
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{last}/{total}")
        else:
            request.send_response(200)
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if fault:
            content = content[: len(content) // 2] if fault == "cut" else b""
            request.close_connection = True
        if not head:
            request.wfile.write(content)

"""A stand-in of the Hugging Face hub: what its client needs to fetch and push small models."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Hub:
    """Repositories in memory, behind an HTTP server of this machine."""

    def __init__(self):
        self.commits = {}  # repository -> list of (id, {path: bytes})
        self.requests = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def files(self, repository, revision="main"):
        """(commit, files) of a revision, or None."""
        commits = self.commits.get(repository, [])
        if revision == "main" and commits:
            return commits[-1]
        return next((commit for commit in commits if commit[0] == revision), None)

    def commit(self, repository, files):
        """Make a commit of files; its id."""
        commits = self.commits.setdefault(repository, [])
        digest = hashlib.sha1(f"{repository}{len(commits)}".encode()).hexdigest()
        commits.append((digest, dict(files)))
        return digest


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status, content, **headers):
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def missing(self, code):
            self.answer(404, {"error": code}, X_Error_Code=code)

        def do_GET(self):
            path = self.path.partition("?")[0]
            hub.requests.append((self.command, path))
            for pattern, call in (
                (r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", self.info),
                (r"/api/models/([^/]+/[^/]+)/tree/([^/]+).*", self.tree),
                (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.file),
            ):
                found = re.fullmatch(pattern, path)
                if found:
                    repository, revision, *rest = found.groups()
                    if repository not in hub.commits:
                        self.missing("RepoNotFound")
                        return
                    commit = hub.files(repository, revision or "main")
                    if commit is None and hub.commits[repository]:
                        self.missing("RevisionNotFound")
                        return
                    call(repository, commit or ("0" * 40, {}), *rest)
                    return
            self.missing("EntryNotFound")

        do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

        def info(self, repository, commit):
            names = [{"rfilename": name} for name in commit[1]]
            self.answer(200, {"id": repository, "sha": commit[0], "siblings": names})

        def tree(self, repository, commit):
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": _blob(data)}
                for name, data in commit[1].items()
            ]
            self.answer(200, rows)

        def file(self, repository, commit, name):
            if name not in commit[1]:
                self.missing("EntryNotFound")
                return
            data = commit[1][name]
            self.answer(200, data, ETag=f'"{_blob(data)}"', X_Repo_Commit=commit[0])

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hub.requests.append((self.command, self.path))
            if self.headers.get("Authorization") != "Bearer hf_token":
                self.answer(401, {"error": "Invalid username or password."})
            elif self.path == "/api/repos/create":
                self.create(json.loads(body))
            elif self.path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for one in json.loads(body)["files"]
                ]
                self.answer(200, {"files": files})
            else:
                repository = re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path)[1]
                self.commit(repository, [json.loads(line) for line in body.splitlines()])

        def create(self, wanted):
            name = f"{wanted['organization']}/{wanted['name']}"
            exists = name in hub.commits
            hub.commits.setdefault(name, [])
            self.answer(409 if exists else 200, {"url": f"{hub.endpoint}/{name}", "id": name})

        def commit(self, repository, entries):
            files = dict((hub.files(repository) or ("", {}))[1])
            for entry in entries:
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "deletedFile":
                    del files[value["path"]]
            digest = hub.commit(repository, files)
            url = f"{hub.endpoint}/{repository}/commit/{digest}"
            self.answer(200, {"commitUrl": url, "commitOid": digest})

    return Handler


def _blob(data):
    """The name that Git gives to content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The stand-in, to which the client goes; with a login, and a cache of its own."""
    stand_in = Hub()
    monkeypatch.setenv("HF_ENDPOINT", stand_in.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    yield stand_in
    stand_in.server.shutdown()
    stand_in.server.server_close()

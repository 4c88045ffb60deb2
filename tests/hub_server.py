"""A small stand-in of the Hugging Face hub: repositories in memory, behind the addresses that its client asks for."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "x" * 34
USER = "clinic"


@dataclass
class Repository:
    """What a repository holds."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def sha(self) -> str:
        content = b"".join(name.encode() + content for name, content in sorted(self.files.items()))
        return hashlib.sha1(content).hexdigest()


class Hub(ThreadingHTTPServer):
    """The server; `repositories` by (kind, name), and every request that was made."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, name: str, files: dict[str, bytes], kind: str = "model", private: bool = False) -> None:
        self.repositories[kind, name] = Repository(private, dict(files))


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {self.path}")
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if path == "/":
            return self._send(200, {})
        if path == "/api/whoami-v2":
            return self._send(200, {"name": USER}) if known else self._send(401, {"error": "Invalid credentials"})
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(known)
        if match := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+?)(?:/(.*))?", path):
            return self._api(match[1], match[2], match[3] or "", known)
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.*)", path):
            return self._file("dataset" if match[1] else "model", match[2], match[4], known)
        return self._send(404, {"error": f"not known here: {path}"})

    def _create(self, known: bool) -> None:
        if not known:
            return self._send(401, {"error": "Invalid credentials"})
        asked = json.loads(self.body)
        kind, name = asked.get("type", "model"), f"{asked.get('organization') or USER}/{asked['name']}"
        private = asked.get("visibility", "private" if asked.get("private") else "public") == "private"
        url = f"{self.server.address}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in self.server.repositories:
            return self._send(409, {"error": "You already created this", "url": url})
        if not name.startswith(f"{USER}/"):
            return self._send(403, {"error": f"You don't have the rights to create {name}"})
        self.server.repositories[kind, name] = Repository(private)
        return self._send(200, {"url": url, "name": name, "id": name})

    def _found(self, kind: str, name: str, known: bool) -> Repository | None:
        repository = self.server.repositories.get((kind, name))
        return repository if repository is not None and (known or not repository.private) else None

    def _api(self, kind: str, name: str, rest: str, known: bool) -> None:
        repository = self._found(kind, name, known)
        if repository is None:
            return self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if rest.startswith("preupload/"):
            files = json.loads(self.body)["files"]
            answer = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files]
            return self._send(200, {"files": answer})
        if rest.startswith("commit/"):
            return self._commit(kind, name, repository, known)
        if rest.startswith("tree/"):
            return self._send(200, [self._entry(path, content) for path, content in sorted(repository.files.items())])
        info = {
            "id": name,
            "sha": repository.sha,
            "private": repository.private,
            "siblings": [{"rfilename": path} for path in sorted(repository.files)],
            "tags": [],
            "downloads": 0,
            "likes": 0,
        }
        return self._send(200, info)

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _commit(self, kind: str, name: str, repository: Repository, known: bool) -> None:
        if not known or not name.startswith(f"{USER}/"):
            return self._send(403, {"error": "Forbidden"})
        for line in self.body.splitlines():
            row = json.loads(line)
            if row["key"] == "file":
                repository.files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
        url = f"{self.server.address}/{name}/commit/{repository.sha}"
        return self._send(200, {"success": True, "commitOid": repository.sha, "commitUrl": url, "hookOutput": ""})

    def _file(self, kind: str, name: str, path: str, known: bool) -> None:
        repository = self._found(kind, name, known)
        if repository is None:
            return self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if path not in repository.files:
            return self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        content = repository.files[path]
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": repository.sha}
        return self._send(200, content, headers)

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers as long as the block lasts."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()

"""A server that stands in for the Hugging Face hub and for a provider of data: a folder, served from a process of its
own.

Design note: the hub's own client downloads from it, told by the environment where it is, so that a command that is
ended while it downloads leaves in the client's cache what it really does. The cache is the client's, not a command's:
it lies where the command writes, so that a full disk meets it too, and is not compared.
"""

import contextlib
import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from campaign import forks

CACHE = "hub"
"""Folder of the client's cache, in the one that a command runs in."""

BACKBONE, ENCODER = "faults/backbone", "timm/test_resnet.r160_in1k"
"""Repositories, `backbone` as `pretrain` writes it, and random weights of timm's smallest encoder."""

_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_LISTED = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/[^/]+)?")
_COMMIT = "0" * 40


class _Hub(http.server.SimpleHTTPRequestHandler):
    """Files by their path; of a repository in `hub/` by the addresses that the hub has for them."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        if (named := _FILE.fullmatch(path)) is not None:
            file = Path(self.directory, "hub", named[1], named[3])
        else:
            file = Path(self.directory, path.lstrip("/"))
        if path == "/":
            self._send(200, b"", {}, body)
        elif (named := _LISTED.fullmatch(path)) is not None and (top := Path(self.directory, "hub", named[1])).is_dir():
            listed = _listed(named[1], top, as_tree=named[2] == "tree")
            self._send(200, json.dumps(listed).encode(), {"X-Repo-Commit": _COMMIT}, body)
        elif file.is_file():
            self._send_file(file, body)
        else:
            what = "RepoNotFound" if path.startswith("/api/") else "EntryNotFound"
            headers = {"X-Error-Code": what, "X-Repo-Commit": _COMMIT}
            self._send(404, json.dumps({"error": what}).encode(), headers, body)

    def _send_file(self, file: Path, body: bool) -> None:
        content = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": _COMMIT}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted is None or not 0 <= int(wanted[1]) < len(content):
            self._send(200, content, headers, body)
            return
        start = int(wanted[1])
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206, content[start:], headers, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            with contextlib.suppress(OSError):  # a client that was killed
                self.wfile.write(content)


def _listed(name: str, folder: Path, as_tree: bool) -> Any:
    """What the hub says of a repository: its files with their sizes, or itself with their names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not as_tree:
        siblings = [{"rfilename": path.relative_to(folder).as_posix()} for path in files]
        return {"id": name, "sha": _COMMIT, "siblings": siblings}
    return [
        {"type": "file", "path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "oid": _COMMIT}
        for path in files
    ]


@contextlib.contextmanager
def serving(folder: Path, cache: Path) -> Iterator[str]:
    """Serve a folder, which need not be there yet; the hub's client, not yet imported, asks here and caches in `cache`.

    Yields:
        The address.
    """
    if "huggingface_hub" in sys.modules:
        raise AssertionError("the hub's client has read its settings already")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def serve() -> None:
            forks.end_with_parent()
            server = http.server.ThreadingHTTPServer(
                ("127.0.0.1", 0), functools.partial(_Hub, directory=str(folder)), bind_and_activate=False
            )
            server.socket = listening
            server.serve_forever()

        process = forks.start(serve, folder.parent, folder.with_name("served"))
    forks.KEPT.add(process)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"):
        os.environ.pop(name, None)
    os.environ |= {"HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    try:
        yield address
    finally:
        forks.KEPT.discard(process)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def fill(folder: Path, backbone: Path) -> None:
    """Make the hub's repositories in a folder; in a fork, for it computes."""
    import timm
    from safetensors.torch import save_file

    shutil.copytree(backbone, folder / BACKBONE)
    encoder = folder / ENCODER
    encoder.mkdir(parents=True)
    network = timm.create_model("test_resnet")
    save_file(network.state_dict(), encoder / "model.safetensors", {"format": "pt"})
    (encoder / "config.json").write_text(json.dumps({"architecture": "test_resnet", "num_classes": 1000}))

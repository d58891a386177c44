"""`flowserve pull` against a hub of our own whose connection breaks."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import make_model

COMMIT = "0" * 40
REPO = "tiny/model"
SIZE_BYTES = 24 << 20
"""Of the weights: what has come is written in pieces of 10 MiB."""


class Hub(ThreadingHTTPServer):
    """Serves one model; the first `num_breaks` answers with weights end in the middle."""

    daemon_threads = True

    def __init__(self, folder: Path, num_breaks: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.num_breaks = num_breaks
        self.num_sizes_asked = 0
        self.asked: list[tuple[str, str]] = []
        """File and Range of each GET."""
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def _answer(self, has_body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{REPO}"):
            files = sorted(self.server.folder.iterdir())
            has_sizes = "blobs=" in self.path
            self.server.num_sizes_asked += has_sizes
            siblings = [{"rfilename": f.name, **({"size": f.stat().st_size} if has_sizes else {})} for f in files]
            about: Any = {
                "id": REPO,
                "modelId": REPO,
                "sha": COMMIT,
                "siblings": siblings,
                "private": False,
                "tags": [],
            }
            if "/tree/" in path:
                about = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": COMMIT} for f in files]
            return self._send(json.dumps(about).encode(), {"Content-Type": "application/json"}, has_body)
        file = self.server.folder / path.rpartition("/")[2]
        if not path.startswith(f"/{REPO}/resolve/") or not file.is_file():
            return self._send(b"", {}, has_body, 404)
        content = file.read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        begin = 0
        if has_body:
            asked = self.headers.get("Range", "")
            self.server.asked.append((file.name, asked))
            begin = int(asked.removeprefix("bytes=").partition("-")[0] or 0)
        if has_body and file.suffix == ".safetensors" and self.server.num_breaks > 0:
            self.server.num_breaks -= 1
            return self._send(
                content[begin:], headers, has_body, 206 if begin else 200, cut=(len(content) - begin) // 2
            )
        self._send(content[begin:], headers, has_body, 206 if begin else 200)

    def _send(
        self, body: bytes, headers: dict[str, str], has_body: bool, status: int = 200, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = make_model(tmp_path / "original", "llama")
    (folder / "model.safetensors").write_bytes(os.urandom(SIZE_BYTES))  # nobody looks inside here
    hub = Hub(folder, num_breaks=1)
    yield hub
    hub.shutdown()
    hub.server_close()


def pull(hub: Hub, home: Path, model: str = REPO) -> subprocess.CompletedProcess[str]:
    own = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-m", "flowserve", "pull", model, "--json"],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_a_broken_download_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    done = pull(hub, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    about = json.loads(done.stdout)
    weights = Path(about["folder"]) / "model.safetensors"
    assert weights.read_bytes() == (hub.folder / "model.safetensors").read_bytes()
    assert about["embeds"] is False and about["size_bytes"] > weights.stat().st_size
    first, second = (asked for name, asked in hub.asked if name == "model.safetensors")
    assert first == "" and SIZE_BYTES // 4 < int(second.removeprefix("bytes=").removesuffix("-")) <= SIZE_BYTES // 2
    asked = len(hub.asked)
    assert json.loads(pull(hub, tmp_path / "home").stdout) == about
    assert len(hub.asked) == asked, "nothing is fetched twice"


def test_a_model_that_is_not_there(hub: Hub, tmp_path: Path) -> None:
    done = pull(hub, tmp_path / "home", "tiny/other")
    assert (done.returncode, "could not be fetched from the hub" in done.stderr) == (1, True), done.stderr


def size_of(hub: Hub, home: Path, model: str = REPO) -> int:
    own = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    code = f"from flowserve.hub import bytes_to_fetch as size; print(size({model!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **own}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_size_is_known_before_anything_is_fetched(hub: Hub, tmp_path: Path) -> None:
    assert size_of(hub, tmp_path / "home") == SIZE_BYTES
    assert hub.asked == [], "the hub only says it"
    assert size_of(hub, tmp_path / "home", "tiny/other") == 0
    assert pull(hub, tmp_path / "home").returncode == 0
    asked = len(hub.asked)
    assert size_of(hub, tmp_path / "home") == 0 and len(hub.asked) == asked, "there is nothing left to fetch"
    hub.shutdown()
    hub.server_close()
    assert size_of(hub, tmp_path / "other") == 0, "nobody answers"

"""A hub on loopback that serves folders of this machine to the real client.

It answers what huggingface_hub asks for: the model, its files with their sizes, and each file, from
which large ones are redirected. Every file whose content was sent is noted.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """The models of the hub, and what was asked of it.

    Attributes:
        models: folder of each model, by its id.
        gated: the ids whose files need a licence that nobody has accepted.
        down: whether every request ends with 503.
        broken: files whose content ends in the middle.
        sent: the files whose content was sent, in order.
        url: address of the hub.
    """

    models: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    down: bool = False
    broken: set[str] = field(default_factory=set)
    sent: list[str] = field(default_factory=list)
    url: str = ""

    def run(self, code: str, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python code in a process of its own, whose hub this is."""
        settings = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return subprocess.run(
            [sys.executable, "-c", code],
            env=kept | settings | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


@contextlib.contextmanager
def fake_hub(models: dict[str, Path]) -> Iterator[FakeHub]:
    """Serve models until the block ends."""
    hub = FakeHub(models)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (HubHandler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class HubHandler(BaseHTTPRequestHandler):
    """Answers one request."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        """Answer without a content."""
        self.answer(content=False)

    def do_GET(self) -> None:
        """Answer with the content."""
        self.answer(content=True)

    def answer(self, content: bool) -> None:
        """Answer a request."""
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        is_api = parts[:2] == ["api", "models"]
        hub_id = "/".join(parts[2:4] if is_api else parts[1:3] if parts[0] == "lfs" else parts[:2])
        folder = self.hub.models.get(hub_id)
        if self.hub.down:
            self.refuse(503, "", "the hub is down")
        elif folder is None:
            self.refuse(401, "RepoNotFound", "Repository not found")
        elif is_api and "tree" not in parts:
            self.reply_json(self.model(hub_id, folder))
        elif hub_id in self.hub.gated:
            self.refuse(401, "GatedRepo", f"Access to model {hub_id} is restricted")
        elif is_api:
            self.reply_json(self.tree(folder))
        elif parts[0] == "lfs":
            self.send_file(folder, "/".join(parts[3:]), content)
        else:
            self.resolve(hub_id, folder, "/".join(parts[4:]), content)

    def model(self, hub_id: str, folder: Path) -> dict[str, Any]:
        """Return what the hub tells about a model."""
        siblings = [
            {"rfilename": name, "size": size, "blobId": etag_of(name)}
            for name, size in files_of(folder).items()
        ]
        gated = "manual" if hub_id in self.hub.gated else False
        return {"id": hub_id, "_id": "0", "sha": COMMIT, "gated": gated, "siblings": siblings}

    def tree(self, folder: Path) -> list[dict[str, Any]]:
        """Return the list of a model's files."""
        return [
            {"type": "file", "path": name, "size": size, "oid": etag_of(name)}
            for name, size in files_of(folder).items()
        ]

    def resolve(self, hub_id: str, folder: Path, name: str, content: bool) -> None:
        """Answer for a file: weights are elsewhere."""
        if name not in files_of(folder):
            self.refuse(404, "EntryNotFound", "Entry not found")
        elif name.endswith((".safetensors", ".bin")):
            self.send_response(302)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-ETag", f'"{etag_of(name)}"')
            self.send_header("X-Linked-Size", str(files_of(folder)[name]))
            self.send_header("Location", f"{self.hub.url}/lfs/{hub_id}/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.send_file(folder, name, content)

    def send_file(self, folder: Path, name: str, content: bool) -> None:
        """Send a file, or the part of it that is asked for."""
        data = (folder / name).read_bytes()
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{etag_of(name)}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if content:
            self.hub.sent.append(name)
            if name in self.hub.broken:
                self.hub.down = True
                self.wfile.write(data[start : start + 10])
                self.close_connection = True
            else:
                self.wfile.write(data[start:])

    def reply_json(self, value: Any) -> None:
        """Send a JSON value."""
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, code: str, message: str) -> None:
        """Send an error with the hub's headers."""
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


def files_of(folder: Path) -> dict[str, int]:
    """The size of every file below a folder, by its path."""
    return {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def etag_of(name: str) -> str:
    """A tag of a file, which differs from those of other names."""
    return hashlib.sha1(name.encode()).hexdigest()

"""A hub on loopback that takes uploads from the real client: repositories, large files, commits."""

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from .fake_hub import COMMIT, FakeHub, HubHandler

TOKEN = "hf_" + "a" * 34
LARGE = (".safetensors", ".png")  # kept as large files


@dataclass
class UploadHub(FakeHub):
    """The repositories of the hub, and what it was sent.

    Attributes:
        root: the folder of new repositories.
        private: the ids of private repositories.
        objects: the large files by their SHA-256.
        uploaded: paths and hashes of what was sent, in order.
        commits: the summary of each commit.
        lost: how many large files are taken before the hub stops answering; None for all.
        read_only: whether the token may write nothing.
    """

    root: Path = Path()
    private: set[str] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)
    uploaded: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    lost: int | None = None
    read_only: bool = False


@contextlib.contextmanager
def upload_hub(root: Path, models: dict[str, Path]) -> Iterator[UploadHub]:
    """Serve models, and take new ones below `root`, until the block ends."""
    hub = UploadHub(models, root=root)
    handler = type("Handler", (UploadHandler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class UploadHandler(HubHandler, BaseHTTPRequestHandler):
    """Answers one request."""

    hub: UploadHub

    def model(self, hub_id: str, folder: Path) -> dict[str, Any]:
        """Return what the hub tells about a model, with the hashes of its files."""
        told = super().model(hub_id, folder)
        for file in told["siblings"]:
            data = (folder / file["rfilename"]).read_bytes()
            file["blobId"] = blob_id(data)
            if file["rfilename"].endswith(LARGE):
                sha = hashlib.sha256(data).hexdigest()
                file["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 134}
        return told | {"private": hub_id in self.hub.private}

    def do_POST(self) -> None:
        """Take what is posted."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path.strip("/")
        parts = path.split("/")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "", "Invalid username or password.")
        elif self.hub.read_only:
            self.refuse(403, "", "Forbidden: this token may not write here.")
        elif path == "api/repos/create":
            self.create(json.loads(body))
        elif path == "api/validate-yaml":
            self.reply_json({"errors": [], "warnings": []})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self.reply_json({"transfer": "basic", "objects": self.batch(json.loads(body))})
        elif parts[4] == "preupload":
            self.reply_json({"files": self.modes(json.loads(body))})
        else:
            self.commit("/".join(parts[2:4]), [json.loads(line) for line in body.splitlines()])

    def do_PUT(self) -> None:
        """Take a large file."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.hub.lost == 0:
            self.refuse(400, "", "the connection is gone")
            return
        if self.hub.lost:
            self.hub.lost -= 1
        sha = hashlib.sha256(body).hexdigest()
        self.hub.objects[sha] = body
        self.hub.uploaded.append(sha)
        self.reply_json({})

    def create(self, wanted: dict[str, Any]) -> None:
        """Create a repository."""
        hub_id = f"{wanted['organization']}/{wanted['name']}"
        if hub_id in self.hub.models:
            data = json.dumps({"url": f"{self.hub.url}/{hub_id}"}).encode()
            self.send_response(409)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        folder = self.hub.root / hub_id
        folder.mkdir(parents=True)
        self.hub.models[hub_id] = folder
        if wanted.get("visibility") == "private" or wanted.get("private"):
            self.hub.private.add(hub_id)
        self.reply_json({"url": f"{self.hub.url}/{hub_id}"})

    def modes(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        """Return how each file is to be sent."""
        return [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in wanted["files"]
        ]

    def batch(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        """Return where each large file goes; nowhere if it is there."""
        return [
            one
            if one["oid"] in self.hub.objects
            else one | {"actions": {"upload": {"href": f"{self.hub.url}/objects/{one['oid']}"}}}
            for one in wanted["objects"]
        ]

    def commit(self, hub_id: str, lines: list[dict[str, Any]]) -> None:
        """Write the files of a commit."""
        folder = self.hub.models[hub_id]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.commits.append(value["summary"])
                continue
            file = folder / value["path"]
            file.parent.mkdir(parents=True, exist_ok=True)
            if line["key"] == "file":
                file.write_bytes(base64.b64decode(value["content"]))
                self.hub.uploaded.append(value["path"])
            else:
                file.write_bytes(self.hub.objects[value["oid"]])
        self.reply_json({"commitUrl": f"{self.hub.url}/{hub_id}/commit/1", "commitOid": COMMIT})


def blob_id(data: bytes) -> str:
    """The hash that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

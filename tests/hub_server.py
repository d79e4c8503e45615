"""A Hugging Face hub in this process, over real HTTP: enough of its API for huggingface_hub's client to download.

`Hub.publish(name, folder)` makes a commit of a folder's files. Faults are asked for by file name: `cut_after` closes
the connection after so many bytes, once; `forged` sends other bytes than the listing promises.
"""

import hashlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

LARGE = 20_000
"""Bytes from which the hub keeps a file as LFS, under its SHA-256 instead of git's SHA-1."""


def blob_name(content: bytes) -> str:
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def write_cache(cache: Path, name: str, folder: Path, commit: str = "c" * 40, *, is_listed: bool = False) -> Path:
    """A snapshot in the hub cache as the hub's client leaves it, made from a folder's files. Returns the snapshot."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    for made in (snapshot, repository / "blobs", repository / "refs", repository / "trees"):
        made.mkdir(parents=True, exist_ok=True)
    files = {}
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        blob = repository / "blobs" / blob_name(content)
        blob.write_bytes(content)
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", blob.name))
        files[file.name] = {"size": len(content), "blob_id": blob.name[:40]}
        if len(blob.name) == 64:
            files[file.name] |= {"lfs_sha256": blob.name, "lfs_size": len(content)}
    if is_listed:
        (repository / "trees" / f"{commit}.json").write_text(json.dumps({"format_version": 1, "files": files}))
    (repository / "refs" / "main").write_text(commit)
    return snapshot


@dataclass
class Hub:
    """What the server gives out, and what it was asked."""

    url: str = ""
    models: dict[str, tuple[str, dict[str, bytes]]] = field(default_factory=dict)
    cut_after: dict[str, int] = field(default_factory=dict)
    forged: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """Method, path and range of every request."""

    def publish(self, name: str, folder: Path, commit: str = "c" * 40) -> None:
        self.models[name] = (commit, {file.name: file.read_bytes() for file in sorted(folder.iterdir())})

    def commit(self, name: str, revision: str | None) -> str:
        """Every commit that is named has the same files; main is the published one."""
        return revision if revision and len(revision) == 40 else self.models[name][0]

    @property
    def downloads(self) -> list[str]:
        """The files that were asked for, in order, with the range if there was one."""
        return sorted(line.split("/")[-1] for line in self.asked if line.startswith("GET") and "/resolve/" in line)


@contextmanager
def serving(hub: Hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            ranged = self.headers.get("Range", "")
            hub.asked.append(f"{self.command} {self.path} {ranged}".strip())
            path = self.path.partition("?")[0]
            if found := re.fullmatch(r"/api/models/([\w-]+/[\w.-]+)(?:/(revision|tree)/(\w+))?", path):
                return self.answer_about(*found.groups())
            if found := re.fullmatch(r"/([\w-]+/[\w.-]+)/resolve/(\w+)/(.+)", path):
                return self.send_file(*found.groups(), ranged)
            return self.send_json({"error": "not found"}, 404)

        do_HEAD = do_GET

        def answer_about(self, name, what, revision):
            if name not in hub.models:
                return self.send_json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            files = hub.models[name][1]
            if what == "tree":
                return self.send_json([tree_entry(file, content) for file, content in files.items()])
            siblings = [sibling(file, content) for file, content in files.items()]
            return self.send_json({"id": name, "sha": hub.commit(name, revision), "siblings": siblings})

        def send_file(self, name, revision, file, ranged):
            promised = hub.models[name][1][file]
            content = hub.forged.get(file, promised)
            begin = int(ranged.removeprefix("bytes=").rstrip("-") or 0)
            cut = hub.cut_after.pop(file, None) if self.command == "GET" else None
            self.send_response(206 if begin else 200)
            self.send_header("X-Repo-Commit", hub.commit(name, revision))
            self.send_header("ETag", f'"{blob_name(promised)}"')
            self.send_header("Content-Length", str(len(content) - begin))
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[begin : len(content) if cut is None else begin + cut])
            self.close_connection = cut is not None

        def send_json(self, value, status=200, headers=None):
            body = json.dumps(value).encode()
            self.send_response(status)
            plain = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            for key, text in (plain | (headers or {})).items():
                self.send_header(key, text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def tree_entry(file: str, content: bytes) -> dict:
    entry = {"type": "file", "path": file, "size": len(content), "oid": blob_name(content)[:40]}
    lfs = {"oid": blob_name(content), "size": len(content), "pointerSize": 130}
    return entry | ({"lfs": lfs} if len(content) >= LARGE else {})


def sibling(file: str, content: bytes) -> dict:
    entry = {"rfilename": file, "size": len(content), "blobId": blob_name(content)[:40]}
    lfs = {"sha256": blob_name(content), "size": len(content), "pointerSize": 130}
    return entry | ({"lfs": lfs} if len(content) >= LARGE else {})

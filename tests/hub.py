"""A Hub on loopback that serves data sets from a folder: the routes that `huggingface_hub` and `datasets` call.

usage: python tests/hub.py FOLDER       prints its address; FOLDER/user/name/ holds the files of data set user/name

A file FOLDER/faults.json makes it fail: {"rate": 0.3, "kinds": ["drop", "stall", "429", "503"], "seed": 0}.
"""

import hashlib
import json
import random
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "0" * 40
LARGE = 1000
"""Bytes from which a file is published with a SHA-256, as files of Git LFS are; smaller ones have a git hash."""
STALL_SECONDS = 3


class Hub(BaseHTTPRequestHandler):
    """Answers for `root`; every revision is the one commit there is."""

    root: Path
    chance: random.Random | None = None

    def do_GET(self):
        fault = self._fault()
        if fault and fault.isdigit():
            return self._send(int(fault), b"{}")
        if fault == "stall":
            time.sleep(STALL_SECONDS)
        path = unquote(urlparse(self.path).path).strip("/")
        if path.startswith("api/datasets/"):
            user, name, *rest = path.removeprefix("api/datasets/").split("/")
            return self._api(self.root / user / name, rest)
        if path.startswith("datasets/") and "/resolve/" in path:
            repository, file = path.removeprefix("datasets/").split("/resolve/")
            return self._file(self.root / repository / file.split("/", 1)[1], cut=fault == "drop")
        return self._send(404, b"{}")

    do_HEAD = do_POST = do_GET

    def _fault(self) -> str | None:
        """What goes wrong with this request, by the chances that the folder's faults.json gives."""
        settings = self.root / "faults.json"
        if not settings.exists():
            return None
        faults = json.loads(settings.read_text())
        if type(self).chance is None:
            type(self).chance = random.Random(faults["seed"])
        return self.chance.choice(faults["kinds"]) if self.chance.random() < faults["rate"] else None

    def _api(self, folder: Path, rest: list[str]):
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if not files:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if rest[:1] == ["tree"]:
            return self._tree(folder, "/".join(rest[2:]))
        if rest[:1] == ["paths-info"]:
            asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["paths"]
            return self._send(200, json.dumps([row_of(folder, file) for file in files if _name(folder, file) in asked]))
        about = {"id": f"{folder.parent.name}/{folder.name}", "sha": COMMIT, "private": False, "tags": []}
        return self._send(200, json.dumps(about | {"siblings": [{"rfilename": _name(folder, file)} for file in files]}))

    def _tree(self, folder: Path, below: str):
        """What lies in a folder of the repository, or below it if the query asks for that."""
        recursive = "recursive=true" in urlparse(self.path).query.lower()
        found = (folder / below).rglob("*") if recursive else (folder / below).glob("*")
        rows = [row_of(folder, path) for path in sorted(found)]
        if not rows:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        return self._send(200, json.dumps(rows))

    def _file(self, file: Path, cut: bool):
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        content, status = file.read_bytes(), 200
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_etag(content)}"', "Accept-Ranges": "bytes"}
        if wanted := self.headers.get("Range"):
            start, _, stop = wanted.removeprefix("bytes=").partition("-")
            last = min(int(stop or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
            content, status = content[int(start) : last + 1], 206
        return self._send(status, content, headers, cut)

    def _send(self, status: int, content: bytes | str, headers: dict | None = None, cut: bool = False):
        content = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut

    def log_message(self, *_):
        """Keep quiet."""


def row_of(folder: Path, path: Path) -> dict:
    """What the Hub says of a file or a folder."""
    if path.is_dir():
        return {"type": "directory", "path": _name(folder, path), "oid": "1" * 40}
    content = path.read_bytes()
    row = {"type": "file", "path": _name(folder, path), "size": len(content), "oid": _git_hash(content)}
    if len(content) >= LARGE:
        row["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return row


def _name(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder))


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if len(content) >= LARGE else _git_hash(content)


def serve(root: Path) -> ThreadingHTTPServer:
    """A server on a free port of loopback, not started yet."""
    return ThreadingHTTPServer(("127.0.0.1", 0), type("HubOf", (Hub,), {"root": root}))


if __name__ == "__main__":
    server = serve(Path(sys.argv[1]))
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()

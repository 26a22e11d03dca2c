"""A Hub on loopback that serves data sets from a folder: the routes that `datasets` calls to stream one.

usage: python tests/hub.py FOLDER       prints its address; FOLDER/user/name/ holds the files of data set user/name
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """Answers for `root`; every revision is the one commit there is."""

    root: Path

    def do_GET(self):
        path = unquote(urlparse(self.path).path).strip("/")
        if path.startswith("api/datasets/"):
            user, name, *rest = path.removeprefix("api/datasets/").split("/")
            return self._api(self.root / user / name, rest)
        if path.startswith("datasets/") and "/resolve/" in path:
            repository, file = path.removeprefix("datasets/").split("/resolve/")
            return self._file(self.root / repository / file.split("/", 1)[1])
        return self._send(404, b"{}")

    do_HEAD = do_GET

    def _api(self, folder: Path, rest: list[str]):
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if not files:
            return self._send(404, b"{}")
        names = [str(file.relative_to(folder)) for file in files]
        if rest[:1] == ["tree"]:
            return self._tree(folder, "/".join(rest[2:]))
        about = {"id": f"{folder.parent.name}/{folder.name}", "sha": COMMIT, "private": False, "tags": []}
        return self._send(200, json.dumps(about | {"siblings": [{"rfilename": name} for name in names]}).encode())

    def _tree(self, folder: Path, below: str):
        """What lies in a folder of the repository, or below it if the query asks for that."""
        recursive = "recursive=true" in urlparse(self.path).query.lower()
        found = (folder / below).rglob("*") if recursive else (folder / below).glob("*")
        rows = [
            {"path": str(path.relative_to(folder)), "oid": "1" * 40}
            | ({"type": "file", "size": path.stat().st_size} if path.is_file() else {"type": "directory"})
            for path in sorted(found)
        ]
        if not rows:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        return self._send(200, json.dumps(rows).encode())

    def _file(self, file: Path):
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        content, status, headers = (
            file.read_bytes(),
            200,
            {"X-Repo-Commit": COMMIT, "ETag": '"1"', "Accept-Ranges": "bytes"},
        )
        if wanted := self.headers.get("Range"):
            start, _, stop = wanted.removeprefix("bytes=").partition("-")
            last = min(int(stop or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
            content, status = content[int(start) : last + 1], 206
        return self._send(status, content, headers)

    def _send(self, status: int, content: bytes, headers: dict | None = None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        """Keep quiet."""


def serve(root: Path) -> ThreadingHTTPServer:
    """A server on a free port of loopback, not started yet."""
    return ThreadingHTTPServer(("127.0.0.1", 0), type("HubOf", (Hub,), {"root": root}))


if __name__ == "__main__":
    server = serve(Path(sys.argv[1]))
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()

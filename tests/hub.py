"""A Hub on loopback that serves a folder: the routes that `huggingface_hub` and `datasets` call to read and to push.

usage: python tests/hub.py FOLDER       prints its address; FOLDER/user/name/ holds the files of data set user/name,
                                        FOLDER/models/user/name/ those of model user/name (see hub_store.py)

Pushing takes a token, whichever, and goes by Git LFS for files from LARGE bytes: HF_HUB_DISABLE_XET=1.

A file FOLDER/faults.json makes it fail: {"rate": 0.3, "kinds": ["drop", "stall", "429", "503"], "seed": 0}. A status
refuses a request before anything is done; "drop" cuts the answer short, of a push too that has been done by then.
"""

import json
import random
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

from hub_store import LARGE, Objects, Refusal, Repository, etag_of, files_of, name_of, row_of

STALL_SECONDS = 3
USER = "someone"
"""Whom every token belongs to."""

NAME = r"(?P<name>[^/]+/[^/]+)"
PLACE = rf"(?:(?P<kind>datasets)/)?{NAME}"
ABOUT = rf"api/(?P<kind>datasets|models)/{NAME}"
REVISION = r"(?P<revision>refs/convert/parquet|[^/]+)"
LOOKS = {
    rf"GET {ABOUT}(/revision/{REVISION})?": "_info",
    rf"GET {ABOUT}/tree/{REVISION}/?(?P<below>.*)": "_tree",
    rf"GET {ABOUT}/commits/{REVISION}": "_commits",
    rf"POST {ABOUT}/paths-info/{REVISION}": "_paths",
    r"POST api/validate-yaml": "_validate",
}
TRANSFERS = {
    rf"GET {PLACE}/resolve/{REVISION}/(?P<path>.+)": "_file",
    r"PUT lfs/(?P<oid>[0-9a-f]{64})": "_put",
}
"""Routes that carry a file. The address to which one is sent needs no token: only who has one learns it."""
PUSHES = {
    r"GET api/whoami-v2": "_whoami",
    r"POST api/repos/create": "_create",
    rf"POST {ABOUT}/preupload/{REVISION}": "_preupload",
    rf"POST {PLACE}\.git/info/lfs/objects/batch": "_batch",
    r"POST lfs/(?P<oid>[0-9a-f]{64})/verify": "_verify",
    rf"POST {ABOUT}/commit/{REVISION}": "_commit",
    rf"POST {ABOUT}/branch/{REVISION}": "_branch",
}
"""Routes that want a token."""


class Hub(BaseHTTPRequestHandler):
    """Answers for `root`."""

    root: Path
    faults: dict | None = None
    chance: random.Random | None = None
    cut = False

    def do_GET(self):
        length = int(self.headers.get("Content-Length", 0))
        self.body = self.rfile.read(length)
        if len(self.body) < length:  # the client is gone
            return
        fault = self._fault()
        if fault and fault.isdigit():
            self._send(int(fault), b"{}")
            return
        if fault == "stall":
            time.sleep(STALL_SECONDS)
        try:
            self._answer(fault)
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code} if refusal.code else {}
            self._send(refusal.status, json.dumps({"error": refusal.message}), headers)

    do_HEAD = do_POST = do_PUT = do_GET

    def _fault(self) -> str | None:
        """What goes wrong with this request, by the chances that the folder's faults.json gives."""
        settings = self.root / "faults.json"
        if not settings.exists():
            return None
        faults = json.loads(settings.read_text())
        if type(self).chance is None or type(self).faults != faults:
            type(self).chance, type(self).faults = random.Random(faults["seed"]), faults
        return self.chance.choice(faults["kinds"]) if self.chance.random() < faults["rate"] else None

    def _answer(self, fault: str | None):
        """Find who answers, and who may ask."""
        method = "GET" if self.command == "HEAD" else self.command
        asked = f"{method} {unquote(urlparse(self.path).path).strip('/')}"
        for routes in (LOOKS, TRANSFERS, PUSHES):
            for pattern, name in routes.items():
                if found := re.fullmatch(pattern, asked):
                    self.cut = fault == "drop" and routes is not LOOKS
                    if routes is PUSHES and not self.headers.get("Authorization", "").startswith("Bearer "):
                        raise Refusal(401, "Invalid username or password.")
                    return getattr(self, name)(**found.groupdict())
        raise Refusal(404, "Not found")

    # looking

    def _info(self, kind: str, name: str, revision: str | None):
        repository = Repository(self.root, kind, name)
        folder = repository.at(revision or "main")
        about = {"id": name, "sha": repository.commit_of(folder), "private": False, "tags": []}
        return self._json(about | {"siblings": [{"rfilename": name_of(folder, file)} for file in files_of(folder)]})

    def _tree(self, kind: str, name: str, revision: str, below: str):
        """What lies in a folder of the repository, or below it if the query asks for that."""
        folder = Repository(self.root, kind, name).at(revision)
        if not (folder / below).is_dir():
            raise Refusal(404, "Not found", "EntryNotFound")
        recursive = "recursive=true" in urlparse(self.path).query.lower()
        found = (folder / below).rglob("*") if recursive else (folder / below).glob("*")
        return self._json([row_of(folder, path) for path in sorted(found)])

    def _paths(self, kind: str, name: str, revision: str):
        folder = Repository(self.root, kind, name).at(revision)
        asked = parse_qs(self.body.decode())["paths"]
        return self._json([row_of(folder, file) for file in files_of(folder) if name_of(folder, file) in asked])

    def _commits(self, kind: str, name: str, revision: str):
        return self._json(Repository(self.root, kind, name).log(revision))

    def _validate(self):
        """Every model card is fine."""
        return self._json({"warnings": [], "errors": []})

    # pushing, in the order in which a client asks

    def _whoami(self):
        access = {"displayName": "a token", "role": "write"}
        return self._json({"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": access}})

    def _create(self):
        asked = json.loads(self.body)
        kind, name = f"{asked.get('type', 'model')}s", f"{asked['organization'] or USER}/{asked['name']}"
        about = {"url": self._address(kind, name), "name": name}
        if Repository(self.root, kind, name).create():
            return self._json(about)
        return self._send(409, json.dumps(about | {"error": "You already created this repository"}))

    def _branch(self, kind: str, name: str, revision: str):
        if Repository(self.root, kind, name).branch(revision):
            return self._json({"success": True})
        return self._send(409, json.dumps({"error": "Reference already exists"}))

    def _preupload(self, kind: str, name: str, revision: str):
        """Which files come by Git LFS, and what is there already, which the client need not send."""
        folder = Repository(self.root, kind, name).at(revision)
        files = []
        for file in json.loads(self.body)["files"]:
            there = row_of(folder, folder / file["path"]) if (folder / file["path"]).is_file() else {}
            mode = "lfs" if file["size"] >= LARGE else "regular"
            oid = there.get("lfs", there).get("oid")
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return self._json({"files": files})

    def _batch(self, kind: str | None, name: str):
        """Where each file of Git LFS is to be sent, if it is not here yet."""
        Repository(self.root, kind or "models", name).at()
        rows = []
        for asked in json.loads(self.body)["objects"]:
            href = f"http://{self.headers['Host']}/lfs/{asked['oid']}"
            actions = {"actions": {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}}
            rows.append(asked | ({} if Objects(self.root).has(asked["oid"]) else actions))
        return self._json({"transfer": "basic", "objects": rows})

    def _put(self, oid: str):
        Objects(self.root).keep(oid, self.body)
        return self._json({})

    def _verify(self, oid: str):
        Objects(self.root).read(oid)
        return self._json({})

    def _commit(self, kind: str, name: str, revision: str):
        header, *changes = [json.loads(line) for line in self.body.splitlines()]
        commit = Repository(self.root, kind, name).commit(revision, header["value"], changes)
        url = f"{self._address(kind, name)}/commit/{commit}"
        return self._json({"success": True, "commitOid": commit, "commitUrl": url})

    # answers

    def _file(self, kind: str | None, name: str, revision: str, path: str):
        repository = Repository(self.root, kind or "models", name)
        folder = repository.at(revision)
        if not (folder / path).is_file():
            raise Refusal(404, "Not found", "EntryNotFound")
        content, status = (folder / path).read_bytes(), 200
        headers = {"X-Repo-Commit": repository.commit_of(folder), "ETag": f'"{etag_of(content)}"'}
        headers["Accept-Ranges"] = "bytes"
        if wanted := self.headers.get("Range"):
            start, _, stop = wanted.removeprefix("bytes=").partition("-")
            last = min(int(stop or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
            content, status = content[int(start) : last + 1], 206
        return self._send(status, content, headers)

    def _address(self, kind: str, name: str) -> str:
        return f"http://{self.headers['Host']}/{'datasets/' if kind == 'datasets' else ''}{name}"

    def _json(self, value: object):
        return self._send(200, json.dumps(value))

    def _send(self, status: int, content: bytes | str, headers: dict | None = None):
        content = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if self.cut else content)
        self.close_connection = self.cut

    def log_message(self, *_):
        """Keep quiet."""


def serve(root: Path) -> ThreadingHTTPServer:
    """A server on a free port of loopback, not started yet."""
    return ThreadingHTTPServer(("127.0.0.1", 0), type("HubOf", (Hub,), {"root": root}))


if __name__ == "__main__":
    server = serve(Path(sys.argv[1]))
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()

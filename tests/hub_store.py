"""What a Hub on loopback keeps: repositories, a folder each, and each commit that was pushed to one.

FOLDER/user/name/ holds the files of data set user/name, FOLDER/models/user/name/ those of a model. As long as nobody
pushes there, the repository is the one commit COMMIT, with whatever lies in the folder. A push writes the whole new
state to user/.name/<commit>/ and then points user/name there: it is a link from the first push on, and turning the
link is all that commits. What lay there before stays readable as commit COMMIT. Files sent ahead by Git LFS wait in
FOLDER/.lfs/ under their SHA-256.
"""

import base64
import hashlib
import json
import threading
from datetime import UTC, datetime
from pathlib import Path

COMMIT = "0" * 40
HEADS = ("main", "refs/convert/parquet")
LARGE = 1000
"""Bytes from which a file is published with a SHA-256, as files of Git LFS are; smaller ones have a git hash."""
FIRST_FILES = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
"""What the Hub puts into a new repository."""
WRITING = threading.Lock()


class Refusal(Exception):
    """An answer of the Hub that is no success."""

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


class Repository:
    """A data set or a model, as `kind` says: "datasets" or "models"."""

    def __init__(self, root: Path, kind: str, name: str):
        self.folder = root / ("models" if kind == "models" else "") / name
        self.history = self.folder.parent / f".{self.folder.name}"
        self.objects = Objects(root)

    def at(self, revision: str = "main") -> Path:
        """The folder with the files of a commit, or of the newest one."""
        if not self.folder.is_dir():
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if not self.folder.is_symlink():
            return self.folder
        head = self.folder if revision in HEADS else self.history / "branches" / revision
        folder = self.folder.parent / head.readlink() if head.is_symlink() else self.history / revision
        if not folder.is_dir():
            raise Refusal(404, "Revision not found", "RevisionNotFound")
        return folder

    def commit_of(self, folder: Path) -> str:
        """The commit whose files `at` found in a folder."""
        return COMMIT if folder == self.folder else folder.name

    def create(self) -> bool:
        """Make the repository, unless it is there already."""
        with WRITING:
            if self.folder.is_dir():
                return False
            self._publish(FIRST_FILES, COMMIT, {"summary": "initial commit"})
            return True

    def commit(self, revision: str, header: dict, changes: list[dict]) -> str:
        """Apply all changes to the newest state, or none of them, and give the new commit."""
        with WRITING:
            folder = self.at(revision)
            parent = self.commit_of(folder)
            if not parent.startswith(header.get("parentCommit", "")):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = {name_of(folder, file): file.read_bytes() for file in files_of(folder)}
            for change in changes:
                files = self._changed(files, change["key"], change["value"])
            return self._publish(files, parent, header, revision)

    def _changed(self, files: dict[str, bytes], kind: str, value: dict) -> dict[str, bytes]:
        path = value["path"]
        if ".." in Path(path).parts or Path(path).is_absolute():
            raise Refusal(400, f"{path} lies outside of the repository")
        if kind == "file":
            return files | {path: base64.b64decode(value["content"])}
        if kind == "lfsFile":
            return files | {path: self.objects.read(value["oid"])}
        gone = {name for name in files if name == path or name.startswith(path.rstrip("/") + "/")}
        if not gone:
            raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        return {name: content for name, content in files.items() if name not in gone}

    def branch(self, name: str) -> bool:
        """Make a branch at the newest commit of the main one, unless it is there already."""
        with WRITING:
            head, there = self.history / "branches" / name, self.at()
            if head.is_symlink():
                return False
            head.parent.mkdir(exist_ok=True)
            head.symlink_to(f"{self.history.name}/{self.commit_of(there)}")
            return True

    def _publish(self, files: dict[str, bytes], parent: str, header: dict, revision: str = "main") -> str:
        """Write a state down as the newest commit; its name is that of its files and of its parent."""
        listing = "".join(f"{git_hash(files[name])} {name}\n" for name in sorted(files))
        commit = hashlib.sha1(f"{parent}\n{listing}".encode()).hexdigest()
        (self.history / commit).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            path = self.history / commit / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        about = {"id": commit, "title": header["summary"], "message": header.get("description", ""), "authors": []}
        about |= {"date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "parent": parent}
        (self.history / f"{commit}.json").write_text(json.dumps(about))
        if self.folder.is_dir() and not self.folder.is_symlink():
            self.folder.rename(self.history / COMMIT)
        link = self.history / "main"
        link.symlink_to(f"{self.history.name}/{commit}")
        link.replace(self.folder if revision == "main" else self.history / "branches" / revision)
        return commit

    def log(self, revision: str) -> list[dict]:
        """The commits that were pushed up to a revision, newest first."""
        commit, found = self.commit_of(self.at(revision)), []
        while (about := self.history / f"{commit}.json").exists():
            found.append(json.loads(about.read_text()))
            commit = found[-1]["parent"]
        return found


class Objects:
    """Files of Git LFS that were sent and may be committed, by their SHA-256."""

    def __init__(self, root: Path):
        self.folder = root / ".lfs"

    def has(self, oid: str) -> bool:
        return (self.folder / oid).exists()

    def read(self, oid: str) -> bytes:
        if not self.has(oid):
            raise Refusal(400, f"The file of LFS object {oid} was never sent")
        return (self.folder / oid).read_bytes()

    def keep(self, oid: str, content: bytes):
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refusal(400, f"These are not the bytes of LFS object {oid}")
        with WRITING:
            self.folder.mkdir(exist_ok=True)
            (self.folder / "sent").write_bytes(content)
            (self.folder / "sent").replace(self.folder / oid)


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def row_of(folder: Path, path: Path) -> dict:
    """What the Hub says of a file or a folder."""
    if path.is_dir():
        return {"type": "directory", "path": name_of(folder, path), "oid": "1" * 40}
    content = path.read_bytes()
    row = {"type": "file", "path": name_of(folder, path), "size": len(content), "oid": git_hash(content)}
    if len(content) >= LARGE:
        row["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return row


def name_of(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder))


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def etag_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if len(content) >= LARGE else git_hash(content)

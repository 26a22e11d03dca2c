"""A file that is written anew is at every moment the old one or the new one."""

import json
import os

import pytest

from files import sha256, write_json, write_whole


def test_a_kill_while_it_is_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "notes.json"
    write_json(path, {"a": "é"})
    old = path.read_bytes()
    assert old == b'{\n  "a": "\xc3\xa9"\n}\n'

    def torn(_):
        assert [*tmp_path.glob(".notes.json.new")]
        assert path.read_bytes() == old
        os._exit(7)

    if (child := os.fork()) == 0:
        monkeypatch.setattr(os, "fsync", torn)
        write_json(path, {"a": 2})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert path.read_bytes() == old
    write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert [*tmp_path.iterdir()] == [path]


def test_what_cannot_be_written_leaves_nothing_beside_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "notes"
    write_whole(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_sha256_is_the_standards(tmp_path):
    (tmp_path / "abc").write_text("abc")  # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

"""A file that is written anew is at every moment the old one or the new one."""

import errno
import json
import os
import resource

import pytest

from settings.checks import ConfigError
from settings.paths import safe_file_name
from storage.files import (
    append_or_restore,
    check_writable,
    read_json_lines,
    read_mapping,
    remove_new_empty_folders,
    report_file_errors,
    report_system_errors,
    sha256,
    write_atomically,
    write_json,
)


def test_a_name_is_cut_where_it_is_too_long():
    assert safe_file_name("a" * 200) == "a" * 200
    assert len(safe_file_name("a" * 201)) == 200
    assert safe_file_name("ü" * 150) != safe_file_name("ü" * 151)
    assert len(safe_file_name("ü" * 150).encode()) <= 200


def test_a_name_that_is_too_long_is_a_mistake_and_a_full_disk_an_end(tmp_path):
    with pytest.raises(ConfigError, match="is too long for a file name; give a shorter one"), report_system_errors():
        (tmp_path / ("x" * 300)).touch()
    with pytest.raises(SystemExit, match="there is no room left "), report_system_errors():
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), report_system_errors():
        raise PermissionError(errno.EACCES, "Permission denied")


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
    write_atomically(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_a_line_that_does_not_fit_leaves_nothing_behind(tmp_path):
    """On a disk that takes 100 bytes of a file."""
    path = tmp_path / "rows"
    path.write_text("x" * 80 + "\n")

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        append_or_restore(path, "a" * 9 + "\n")
        with pytest.raises(OSError, match="File too large"):
            append_or_restore(path, "b" * 50 + "\n")
        append_or_restore(path, "c" * 4 + "\n")

    if (child := os.fork()) == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.read_text().splitlines() == ["x" * 80, "a" * 9, "c" * 4]


def test_sha256_is_the_standards(tmp_path):
    (tmp_path / "abc").write_text("abc")  # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


BROKEN = [
    ("a.json", b"", "a.json is damaged: Expecting value"),
    ("a.json", b"[1]", "a.json is damaged: it is not a mapping of keys to values; mend it"),
    ("a.json", b"\xff\xfe", "a.json is damaged: 'utf-8' codec"),
    ("a.yaml", b"", "a.yaml is damaged: it is not a mapping of keys to values; mend it"),
    ("a.yaml", b"a: [", "a.yaml is damaged: while parsing"),
    ("b.yaml", None, "b.yaml cannot be read: No such file or directory; mend it"),
]


@pytest.mark.parametrize(("name", "written", "complaint"), BROKEN)
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path, name, written, complaint):
    if written is not None:
        (tmp_path / name).write_bytes(written)
    with pytest.raises(ConfigError) as error:
        read_mapping(tmp_path / name, "mend it")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_are_read_whole(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    assert read_json_lines(tmp_path / "rows.jsonl", "mend it") == [{"a": 1}, {"a": 2}]
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a":')
    with pytest.raises(ConfigError, match=r"rows\.jsonl is damaged: Expecting value.*; mend it"):
        read_json_lines(tmp_path / "rows.jsonl", "mend it")


def test_a_sentence_stays_as_it_is(tmp_path):
    with pytest.raises(ConfigError, match=r"^as it is$"), report_file_errors(tmp_path, "mend it"):
        raise ConfigError("as it is")


def test_what_can_be_written_to_is_tried_and_stays_as_it_was(tmp_path):
    (tmp_path / "file").touch()
    check_writable(tmp_path / "new" / "one", "--out")
    for place in ("file", "file/x", "file/x/y"):
        with pytest.raises(ConfigError, match=r"^--out cannot be written to: Not a directory; give another$"):
            check_writable(tmp_path / place, "--out")
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]


def test_of_folders_that_were_made_those_with_something_in_them_stay(tmp_path):
    below = tmp_path / "a" / "b"
    with remove_new_empty_folders(below):
        below.mkdir(parents=True)
    assert not [*tmp_path.iterdir()]
    with remove_new_empty_folders(below):
        below.mkdir(parents=True)
        (tmp_path / "a" / "notes").touch()
    assert [*(tmp_path / "a").iterdir()] == [tmp_path / "a" / "notes"]
    with remove_new_empty_folders(tmp_path / "a"):
        (tmp_path / "a" / "notes").unlink()
    assert (tmp_path / "a").is_dir()  # it was there before

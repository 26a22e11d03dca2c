"""One bad record costs itself and nothing else, in every format; what is a fault and what is not is written here."""

import bz2
import gzip
import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.sources import records
from data_prep.sources.record_errors import MalformedRecord, Reading
from data_prep.sources.records import Fields, read_records
from data_prep.sources.shards import LocalShard
from data_prep.sources.splits import split_of_files
from settings.checks import ConfigError

GOOD = b'{"text": "a good one"}'
FAULTS = {
    "truncated JSON": (b'{"text": "cut', "invalid JSON"),
    "two objects": (b'{"text": "a"} {"text": "b"}', "invalid JSON"),
    "a bare word": (b"text", "invalid JSON"),
    "not a number": (b'{"text": NaN}', "invalid JSON"),
    "invalid UTF-8": (b'{"text": "\xff\xfe"}', "invalid JSON"),
    "UTF-8 cut short": (b'{"text": "\xe6\xbc"}', "invalid JSON"),
    "an encoded surrogate": (b'{"text": "\xed\xa0\x80"}', "invalid JSON"),
    "a lone surrogate": (b'{"text": "\\ud800"}', "invalid JSON"),
    "a surrogate the wrong way round": (b'{"text": "\\udc00\\ud800"}', "invalid JSON"),
    "a raw NUL": (b'{"text": "a\x00b"}', "invalid JSON"),
    "a raw control character": (b'{"text": "a\x01b"}', "invalid JSON"),
    "NUL bytes alone": (b"\x00\x00\x00", "invalid JSON"),
    "a missing field": (b'{"content": "a"}', "there is no column text; there are content"),
    "null": (b'{"text": null}', "text is null; it must be text"),
    "a number": (b'{"text": 5}', "text is a number; it must be text"),
    "a float": (b'{"text": 1.5}', "text is a number; it must be text"),
    "a boolean": (b'{"text": true}', "text is a boolean; it must be text"),
    "a list": (b'{"text": ["a"]}', "text is a list; it must be text"),
    "an object": (b'{"text": {"a": 1}}', "text is an object; it must be text"),
    "a line that is a list": (b'["text"]', "a line must be a JSON object, not a list"),
    "a line that is text": (b'"text"', "a line must be a JSON object, not text"),
    "half a pair": (b'{"prompt": "a"}', "there is no column text; there are prompt"),
}
FINE = {
    "an escaped NUL": (b'{"text": "a\\u0000b"}', "a\0b"),
    "a pair of surrogates": (b'{"text": "\\ud83d\\ude00"}', "\U0001f600"),
    "line separators": ('{"text": "a\u2028b\u0085c"}'.encode(), "a\u2028b\u0085c"),
    "a key given twice": (b'{"text": "a", "text": "b"}', "b"),
    "Windows line ends": (b'{"text": "a"}\r', "a"),
    "other fields": (b'{"text": "a", "meta": {"n": [1, null]}}', "a"),
}
PACK = {
    "jsonl": bytes,
    "jsonl.gz": gzip.compress,
    "jsonl.zst": lambda raw: zstandard.compress(raw[: len(raw) // 2]) + zstandard.compress(raw[len(raw) // 2 :]),
    "jsonl.xz": lzma.compress,
    "jsonl.bz2": bz2.compress,
}


def read(path, limit=1.0, sample_by="paragraph", group=None) -> tuple[list, Reading, list[dict]]:
    """All documents of a file, how the reading went, and the faults that were written down."""
    quarantine = path.with_name("quarantine.jsonl")
    reading = Reading(limit, quarantine)
    split = split_of_files([LocalShard.of(path)], Fields("text", group, sample_by), limit)
    documents = [document for document, _ in split.read_from(None, reading)]
    lines = quarantine.read_text().splitlines() if quarantine.exists() else []
    return documents, reading, [json.loads(line) for line in lines]


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_line_costs_itself_alone(tmp_path, name, suffix):
    bad, reason = FAULTS[name]
    path = tmp_path / f"corpus.{suffix}"
    path.write_bytes(PACK[suffix](GOOD + b"\n" + bad + b"\n" + GOOD + b"\n"))
    documents, reading, (fault,) = read(path)
    assert documents == [{"text": "a good one"}] * 2
    assert (reading.records, reading.faults, reading.empty) == (3, 1, 0)
    assert (fault["file"], fault["record"], fault["offset"]) == (str(path), 2, len(GOOD) + 1)
    assert fault["reason"].startswith(reason)


@pytest.mark.parametrize("name", FINE)
def test_what_looks_odd_and_is_text(tmp_path, name):
    line, text = FINE[name]
    (tmp_path / "corpus.jsonl").write_bytes(line + b"\n" + GOOD)
    documents, reading, _ = read(tmp_path / "corpus.jsonl")
    assert [document["text"] for document in documents] == [text, "a good one"]
    assert reading.faults == 0


def test_empty_documents_are_counted_and_no_fault(tmp_path):
    (tmp_path / "corpus.jsonl").write_bytes(b'{"text": ""}\n\n' + GOOD + b"\n  \n")
    documents, reading, _ = read(tmp_path / "corpus.jsonl", limit=0)
    assert len(documents) == 1
    assert (reading.records, reading.empty, reading.faults) == (2, 1, 0)


@pytest.mark.parametrize("suffix", [*PACK, "parquet", "txt"])
def test_an_empty_file_is_a_fault_where_it_can_never_be_whole(tmp_path, suffix):
    (tmp_path / f"corpus.{suffix}").write_bytes(b"")
    documents, reading, faults = read(tmp_path / f"corpus.{suffix}")
    assert documents == []
    is_plain = suffix in ("jsonl", "txt")
    assert (reading.records, reading.empty, reading.faults) == (1, is_plain, not is_plain)
    assert [fault["reason"] for fault in faults] == ([] if is_plain else ["an empty file"])


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "corpus.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD)
    assert read(tmp_path / "corpus.jsonl")[0] == [{"text": "a good one"}]


@pytest.mark.parametrize(
    "text", ['[\n{"text": "a"},\n{"text": "b"}\n]\n', '[{"text": "a"}, {"text": "b"}]', '[ {"text":']
)
def test_a_json_array_is_one_sentence(tmp_path, text):
    (tmp_path / "corpus.json").write_text(text)
    with pytest.raises(ConfigError, match="write one object per line instead"):
        read(tmp_path / "corpus.json")


LINES = st.lists(
    st.one_of(
        st.sampled_from([bad for bad, _ in FAULTS.values()]).map(lambda bad: (bad, None)),
        st.sampled_from(list(FINE.values())),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(
            lambda text: (json.dumps({"text": text}, ensure_ascii=False).encode(), text)
        ),
        st.text(min_size=1)
        .filter(lambda text: not any(0xD800 <= ord(c) < 0xE000 for c in text))
        .map(lambda text: (json.dumps({"text": text}).encode(), text)),
    ),
    min_size=1,
    max_size=12,
)


@given(LINES, st.sampled_from(sorted(PACK)), st.integers(0, 12), st.booleans())
@settings(max_examples=300)
def test_any_mix_is_read_from_anywhere(tmp_path_factory, lines, suffix, start, ends):
    """Documents, faults and offsets equal those that the lines were made with, from any record on."""
    path = tmp_path_factory.mktemp("lines") / f"corpus.{suffix}"
    raw = b"\n".join(line for line, _ in lines) + (b"\n" if ends else b"")
    path.write_bytes(PACK[suffix](raw))
    documents, reading, faults = read(path)
    assert [document["text"] for document in documents] == [text for _, text in lines if text is not None]
    assert [fault["record"] for fault in faults] == [i for i, (_, text) in enumerate(lines, 1) if text is None]
    for fault in faults:
        assert raw[fault["offset"] :].startswith(lines[fault["record"] - 1][0])
    assert reading.records == len(lines)
    rest = list(read_records(path, Fields("text", None, "paragraph"), start, "corpus"))
    assert [record.number for record in rest] == list(range(start, len(lines)))


@given(
    st.binary(max_size=300),
    st.sampled_from(["jsonl", "txt", "jsonl.gz", "jsonl.zst", "parquet", "jsonl.xz", "csv", "arrow"]),
)
@example(b"\x00", "jsonl")
@example(b"text\n\x00\n\xff", "csv")
@example(b"1234ARROW1", "arrow")
@example(b"1234567\0\0\0\0", "arrow")
@example(b"{}", "parquet")
@settings(max_examples=300)
def test_no_bytes_are_a_traceback(tmp_path_factory, raw, suffix):
    path = tmp_path_factory.mktemp("bytes") / f"corpus.{suffix}"
    path.write_bytes(raw)
    try:
        documents, _, _ = read(path)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        for document in documents:
            document["text"].encode()


@pytest.mark.parametrize("suffix", ["jsonl.gz", "jsonl.zst", "jsonl.xz", "jsonl.bz2", "parquet"])
def test_a_file_that_breaks_off_is_one_sentence(tmp_path, suffix):
    path = tmp_path / f"corpus.{suffix}"
    if suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": ["abc"] * 5000}), path)
        whole = path.read_bytes()
    else:
        whole = PACK[suffix]((GOOD + b"\n") * 5000)
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ConfigError, match=r"is damaged after record \d+: .*; download or copy the file again"):
        read(path)


def test_parquet_rows_fail_one_by_one(tmp_path):
    table = pyarrow.table({"text": pyarrow.array([b"good", b"\xff", None, b"a\0b", b""], pyarrow.binary())})
    table = pyarrow.table({"text": pyarrow.Array.from_buffers(pyarrow.string(), 5, table["text"].chunk(0).buffers())})
    pyarrow.parquet.write_table(table, tmp_path / "corpus.parquet")
    documents, reading, faults = read(tmp_path / "corpus.parquet")
    assert [document["text"] for document in documents] == ["good", "a\0b"]
    assert [fault["reason"] for fault in faults] == [
        "invalid UTF-8 at byte 0 of the text",
        "text is null; it must be text",
    ]
    assert reading.empty == 1


@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 45))
@settings(max_examples=30)
def test_tables_are_read_from_any_row(tmp_path_factory, rows, group, start):
    folder, texts = tmp_path_factory.mktemp("rows"), [f"row {i}" for i in range(rows)]
    table = pyarrow.table({"text": texts})
    pyarrow.parquet.write_table(table, folder / "corpus.parquet", row_group_size=group)
    for name, new in (("stream", pyarrow.ipc.new_stream), ("file", pyarrow.ipc.new_file)):
        with new(str(folder / f"{name}.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=group)
    (folder / "corpus.csv").write_text("\n".join(["text", *texts]))
    for path in folder.iterdir():
        found = list(read_records(path, Fields("text", None, "paragraph"), start, "corpus"))
        assert [record.fields["text"] for record in found] == texts[start:]
        assert [record.number for record in found] == list(range(start, rows))


def test_plain_text_faults_have_a_place(tmp_path):
    (tmp_path / "corpus.txt").write_bytes(b"good\n\nb\xffd\n\nn\0l\n\n\n\nlast\r\n")
    documents, _, faults = read(tmp_path / "corpus.txt")
    assert [document["text"] for document in documents] == ["good", "last"]
    assert [(fault["record"], fault["offset"], fault["reason"]) for fault in faults] == [
        (2, 6, "invalid UTF-8 at byte 1 of the text"),
        (3, 11, "a NUL byte at byte 1 of the text"),
    ]


@given(st.lists(st.text("ab\n ", max_size=8), max_size=8))
def test_documents_between_separators(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("stories") / "stories.txt"
    path.write_bytes("".join(f"{text}\n<|endoftext|>\n" for text in texts).encode())
    documents, reading, _ = read(path, sample_by="<|endoftext|>")
    stripped = [text.strip("\r\n") for text in texts]
    assert [document["text"] for document in documents] == [text for text in stripped if text]
    assert reading.empty == sum(not text for text in stripped or [""])  # an empty file counts as one


@given(st.text(st.sampled_from("ab<|e"), max_size=40), st.integers(1, 7))
def test_separators_are_found_across_blocks(tmp_path_factory, text, block):
    path = tmp_path_factory.mktemp("stories") / "stories.txt"
    path.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "BLOCK", block)
        documents, _, _ = read(path, sample_by="<|e")
    assert [document["text"] for document in documents] == [part for part in text.split("<|e") if part]


def test_a_group_that_cannot_be_read_is_a_fault(tmp_path):
    metas = ["{x} not json", '{"name": "\\ud800"}', "{}"]
    rows = [{"text": str(i), "meta": meta} for i, meta in enumerate(metas)]
    (tmp_path / "pile.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    documents, _, faults = read(tmp_path / "pile.jsonl", group="meta.name")
    assert documents == [{"text": "2"}]
    assert [fault["reason"].startswith("meta.name is not valid JSON") for fault in faults] == [True, True]


@pytest.mark.parametrize("sample_by", ["paragraph", "line", "document", "|"])
def test_a_byte_order_mark_of_plain_text_is_no_text(tmp_path, sample_by):
    (tmp_path / "corpus.txt").write_bytes(b"\xef\xbb\xbfgood")
    assert read(tmp_path / "corpus.txt", sample_by=sample_by)[0] == [{"text": "good"}]


def test_groups_are_read_by_path(tmp_path):
    rows = [{"text": "a", "meta": {"pile_set_name": "Books"}}, {"text": "b", "meta": '{"pile_set_name": "Web"}'}]
    (tmp_path / "pile.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": "c"}]))
    documents, _, _ = read(tmp_path / "pile.jsonl", group="meta.pile_set_name")
    assert [document.get("group") for document in documents] == ["Books", "Web", None]


def test_too_many_faults_stop_the_reading_after_a_thousand(tmp_path):
    bad = FAULTS["null"][0]
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"\n".join([bad] * 2 + [GOOD] * 2000))
    with pytest.raises(ConfigError, match=r"2 of 1,000 records .*text is null.* more than data.bad_records=0.001"):
        read(path, limit=0.001)
    assert len(read(path, limit=0.002)[0]) == 2000
    path.write_bytes(b"\n".join([bad] * 2 + [GOOD] * 900))
    assert len(read(path, limit=0.001)[0]) == 900  # so far: whether they are too many is judged at the split's end


def test_kinds_of_faults_are_counted(tmp_path):
    lines = [b"{", b"}", b'{"text": null}', *[b'{"title": 1}'] * 3, b'{"text": "\xff"}', GOOD]
    (tmp_path / "corpus.jsonl").write_bytes(b"\n".join(lines))
    _, reading, _ = read(tmp_path / "corpus.jsonl")
    assert reading.reasons == {
        "invalid JSON": 2, "text is null": 1, "there is no column text": 3, "invalid JSON, not UTF-8": 1
    }  # fmt: skip
    again = Reading(1.0, **json.loads(json.dumps(reading.counts())))
    assert (again.reasons, again.records, again.faults) == (reading.reasons, 8, 7)
    assert str(again).startswith(
        "7 of 8 records are malformed (3 x there is no column text, 2 x invalid JSON, 1 x text is n"
    )


def test_a_text_may_lie_within_a_column(tmp_path):
    rows = [{"data": {"text": "a", "n": 1}}, {"data": None}, {"data": {"text": "b", "n": 2}}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"data.text": "c"}]))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text('n,data\n1,"{""text"": ""a""}"\n')
    for name, expected in (("a.jsonl", "abc"), ("a.parquet", "ab"), ("a.csv", "a")):
        reading = Reading(1.0)
        split = split_of_files([LocalShard.of(tmp_path / name)], Fields("data.text", None, "paragraph"), 1.0)
        assert [document["text"] for document, _ in split.read_from(None, reading)] == [*expected]
        assert reading.reasons == ({} if name == "a.csv" else {"data.text is null": 1})


def test_a_column_that_is_asked_for_is_read_beside_prompts(tmp_path):
    row = {"prompt": "a", "completion": "b", "text": "c"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    pyarrow.parquet.write_table(pyarrow.table({name: [value] for name, value in row.items()}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        for prompts, expected in ((True, {"prompt": "a", "completion": "b"}), (False, {"text": "c"})):
            fields = Fields("text", None, "paragraph", prompts)
            assert list(split_of_files([LocalShard.of(tmp_path / name)], fields, 0.0)) == [expected]


def test_a_fault_reads_well():
    assert str(MalformedRecord("a.jsonl", 3, 120, "invalid JSON")) == "a.jsonl, record 3 (byte 120): invalid JSON"
    assert str(MalformedRecord("a.parquet", 1, None, "an empty file")) == "a.parquet, record 1: an empty file"


def test_what_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setitem(records.FORMATS, "json", forbidden)  # root may read everything
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    with pytest.raises(
        ConfigError, match=r"a\.jsonl cannot be read: Permission denied; allow it, or give another file"
    ):
        list(read_records(tmp_path / "a.jsonl", Fields("text", None, "line"), 0, "a.jsonl"))

"""Windows and their order: each pair a target once an epoch, in an order that is computed from (seed, position)."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.tokens import windows as windows_module
from data_prep.tokens.order import Epochs, shuffled
from data_prep.tokens.windows import Documents, TokenArray, Windows
from settings.checks import ConfigError


def array_of(folder, *shards) -> TokenArray:
    files = [folder / f"{index:05}.npy" for index in range(len(shards))]
    for file, shard in zip(files, shards, strict=True):
        np.save(file, np.array(shard, dtype=np.uint16))
    return TokenArray(files, [len(shard) for shard in shards])


SHARDS = st.lists(st.lists(st.integers(0, 60_000), min_size=1, max_size=60), min_size=1, max_size=6)


@given(SHARDS, st.data())
def test_shards_read_as_one_array(tmp_path_factory, shards, data):
    ids = array_of(tmp_path_factory.mktemp("shards"), *shards)
    whole = [token for shard in shards for token in shard]
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start + 1, len(whole) + 5))
    assert ids.read(start, stop).tolist() == whole[start:stop]
    assert len(ids) == len(whole)


@given(SHARDS.filter(lambda shards: sum(map(len, shards)) > 1), st.integers(2, 40))
def test_each_adjacent_pair_is_a_target_exactly_once(tmp_path_factory, shards, length):
    windows = Windows(array_of(tmp_path_factory.mktemp("shards"), *shards), length)
    ids = [token for shard in shards for token in shard]
    rows = [windows[i]["input_ids"].tolist() for i in range(len(windows))]
    assert [pair for row in rows for pair in pairwise(row)] == list(pairwise(ids))
    assert all(len(row) == length for row in rows[:-1])
    assert 2 <= len(rows[-1]) <= length
    assert windows.targets == len(ids) - 1


def test_no_more_than_some_files_are_open(tmp_path, monkeypatch):
    monkeypatch.setattr(windows_module, "MAX_MAPPED_FILES", 3)
    ids = array_of(tmp_path, *([number] * 2 for number in range(9)))
    assert [int(ids.read(place, place + 1)[0]) for place in (0, 17, 5, 3, 17, 9, 0)] == [0, 8, 2, 1, 8, 4, 0]
    assert len(ids._mapped) == 3


def test_windows_end_and_may_be_read_from_the_end(tmp_path):
    windows = Windows(array_of(tmp_path, range(10)), 4)
    assert [windows[i]["input_ids"].tolist() for i in (0, -1)] == [[0, 1, 2, 3], [6, 7, 8, 9]]
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_documents_of_several_shards(tmp_path):
    about = np.array([(0, 0), (2, 3), (5, 0)], dtype=[("start", "<i8"), ("prompt", "<i4")])
    documents = Documents(array_of(tmp_path, [9, 1, 9], [2, 3, 9], [4, 9]), about, 99)
    assert [example["input_ids"].tolist() for example in documents] == [[9, 1, 9], [9, 2, 3, 9], [9, 4, 9]]
    assert [example["prompt_length"] for example in documents] == [0, 3, 0]
    assert documents.targets == 2 + 1 + 2
    with pytest.raises(ConfigError, match=r"has 4 tokens, .* raise it .* to 4"):
        Documents(documents.ids, about, 3)


DOCUMENTS = st.lists(st.tuples(st.integers(0, 7), st.integers(-1, 3)), min_size=1, max_size=12)


@given(DOCUMENTS, st.booleans(), st.integers(2, 20), st.data())
def test_a_token_has_the_group_of_the_document_it_is_of(documents, shared, length, data):
    """Against documents written out token by token: 1 for text, 8 for a start of its own, 9 for an end."""
    tokens, owners, starts = ([9], [documents[0][1]], []) if shared else ([], [], [])
    for size, group in documents:
        starts.append(len(tokens) - shared)
        written = [1] * size + [9] if shared else [8] + [1] * size + [9]
        tokens += written
        owners += [group] * len(written)
    about = np.zeros(len(documents), [("start", "<i8"), ("prompt", "<i4"), ("group", "<i4")])
    about["start"], about["group"] = starts, [group for _, group in documents]
    cut = data.draw(st.integers(0, len(tokens)))
    ids = TokenArray([np.array(tokens[:cut]), np.array(tokens[cut:])], [cut, len(tokens) - cut])
    windows = Windows(ids, length, about)
    for i in range(len(windows)):
        first = i * (length - 1)
        assert windows[i]["input_ids"].tolist() == tokens[first : first + length]
        assert windows[i]["groups"].tolist() == owners[first : first + length]
    rows = Documents(ids, about, 99, with_groups=True)
    assert [row["groups"].tolist() for row in rows] == [[group] * (size + 2) for size, group in documents]
    assert all(len(row["input_ids"]) == len(row["groups"]) for row in rows)
    assert not any("groups" in row for row in (Windows(ids, length)[0], Documents(ids, about, 99)[0]))


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_an_order_is_a_permutation(size, key):
    assert sorted(shuffled(index, size, key) for index in range(size)) == list(range(size))


def test_an_order_is_computed_at_any_size():
    size = 10**10
    some = [shuffled(index, size, 7) for index in range(1000)]
    assert len(set(some)) == 1000
    assert max(some) < size
    assert abs(sum(some) / 1000 / size - 0.5) < 0.05


def test_orders_look_random():
    """Over many keys, each of four things stands at each place, and follows each other, about equally often."""
    orders = [tuple(shuffled(index, 4, key) for index in range(4)) for key in range(2400)]
    counts = {order: orders.count(order) for order in set(orders)}
    assert len(counts) == 24
    chi_squared = sum((count - 100) ** 2 / 100 for count in counts.values())
    assert chi_squared < 49.7  # 23 degrees of freedom, p = 0.001


@given(st.integers(1, 50), st.integers(0, 5), st.integers(0, 200), st.integers(-50, 200))
def test_a_run_goes_on_from_any_position(size, seed, stop, shift):
    """Each epoch has every example once, and a shifted run has the same ones at the same positions."""
    numbers = list(range(size))
    whole = [*Epochs(numbers, seed, stop)]
    shift = min(shift, stop)
    shifted = Epochs(numbers, seed, stop, shift)
    assert len(shifted) == stop - shift
    assert [shifted[i] for i in range(max(0, -shift), len(shifted))] == whole[max(shift, 0) :]
    for epoch in range(stop // size):
        assert sorted(whole[epoch * size : (epoch + 1) * size]) == numbers


def test_epochs_and_seeds_differ():
    numbers = list(range(100))
    first, second = [*Epochs(numbers, 0, 100)], [*Epochs(numbers, 0, 200)][100:]
    assert first != second
    assert first != [*Epochs(numbers, 1, 100)]

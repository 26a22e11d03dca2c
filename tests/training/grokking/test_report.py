"""When a run fitted, generalised and whether it lasted: against curves whose answers are known by hand."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.grokking.callbacks import StopWhenGrokked
from training.grokking.report import milestones, table


def rows(train, test, step=10):
    return [
        {"step": step * (i + 1), "train_accuracy": a, "test_accuracy": b}
        for i, (a, b) in enumerate(zip(train, test, strict=True))
    ]


def test_a_curve_that_groks_and_stays():
    found = milestones(rows([0.5, 0.999, 1, 1, 1, 1], [0.1, 0.2, 0.5, 0.995, 1, 0.996]))
    assert found == {
        "steps_to_fit": 20, "first_99": 40, "steps_to_grok": 40, "steps_to_100": 50, "gap": 20, "delay_factor": 2.0,
        "worst_after": 0.995, "worst_last_fifth": 0.996,
    }  # fmt: skip


def test_staying_takes_three_evaluations_to_show():
    found = milestones(rows([0.5, 0.999, 1, 1], [0.1, 0.2, 0.995, 1]))
    assert (found["first_99"], found["steps_to_grok"], found["delay_factor"]) == (30, None, 1.5)


def test_the_delay_is_to_the_first_time():
    found = milestones(rows([1] * 9, [0.1, 0.1, 0.99, 0.3, 1, 0.5, 1, 1, 1]))
    assert (found["steps_to_grok"], found["gap"], found["delay_factor"]) == (70, 20, 3.0)


def test_a_curve_that_falls_back_groks_when_it_stays():
    found = milestones(rows([1] * 6, [0.99, 0.4, 0.989, 0.99, 1, 0.9999]))
    assert (found["first_99"], found["steps_to_grok"], found["worst_after"]) == (10, 40, 0.4)
    assert found["steps_to_100"] == 50
    assert found["worst_last_fifth"] == 0.9999


@pytest.mark.parametrize("last", [0.98, 0.0])
def test_a_curve_that_ends_below_has_not_grokked(last):
    found = milestones(rows([1, 1, 1], [0.999, 1, last]))
    assert found["first_99"] == 10
    assert found["steps_to_grok"] is None
    assert found["worst_after"] == last


def test_a_curve_that_never_gets_there():
    found = milestones(rows([0.1, 0.2], [0.1, 0.1]))
    assert all(found[key] is None for key in ("steps_to_fit", "first_99", "steps_to_grok", "worst_after"))
    assert found["worst_last_fifth"] == 0.1


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_milestones_keep_their_order(curve):
    train, test = zip(*curve, strict=True)
    found = milestones(rows(train, test))
    if found["steps_to_grok"] is not None:
        assert found["first_99"] <= found["steps_to_grok"]
        assert all(accuracy >= 0.99 for accuracy in test[found["steps_to_grok"] // 10 - 1 :])
        assert found["steps_to_grok"] == 10 or test[found["steps_to_grok"] // 10 - 2] < 0.99
        assert len(test) >= found["steps_to_grok"] // 10 + 2
    else:
        assert min(test[-3:]) < 0.99 or len(test) < 3
    assert (found["first_99"] is None) == (max(test) < 0.99)


def test_stopping_needs_three_evaluations_in_a_row_of_every_replica():
    callback, control = StopWhenGrokked(), SimpleNamespace(should_training_stop=False)
    state = SimpleNamespace(log_history=[])
    for pair, stops in [((1, 0.5), 0), ((1, 1), 0), ((1, 0.98), 0), ((0.99, 1), 0), ((1, 1), 0), ((1, 1), 1)]:
        rows = [{"test_accuracy": accuracy} for accuracy in pair]
        state.log_history += [*rows, {"loss": 1.0}]
        callback.on_evaluate(None, state, control, metrics=rows)
        assert control.should_training_stop == bool(stops)


def test_the_table_says_never():
    found = milestones(rows([1, 1], [0.1, 0.2])) | {"train_accuracy": 1.0, "test_accuracy": 0.2}
    lines = table({"seed=0": found})
    assert lines[1].split() == ["seed=0", "10", "never", "never", "never", "100.00%", "20.00%"]

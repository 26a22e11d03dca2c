"""Checkpoints by tokens: after the very step that reaches a number, kept from rotation, named, resumed, in the card."""

import json
import shutil

import pytest

import train_lm
from settings.checks import ConfigError
from settings.recipe_sections import CheckpointsSection
from tests.training.checkpoints.test_resume import GO_ON, place, rows, run  # noqa: F401
from training.preflight.resources import token_saves

# ruff: noqa: F811

TOKENS = 4 * 31
"""Targets of a step: four windows of 32 tokens."""
GIVEN = (
    f"checkpoints.save_tokens={{first: {TOKENS - 1}, chck_200: 200, both: {3 * TOKENS}, second: {2 * TOKENS + 1}}}",
    "training.save_steps=4", "training.save_total_limit=1", "training.eval_strategy=no",
)  # fmt: skip
STEPS = {"first": 1, "chck_200": 2, "both": 3}
"""Two numbers are passed in one step, which has the name of the larger."""


def kept(folder) -> set[int]:
    return {int(path.name.partition("-")[2]) for path in folder.glob("checkpoint-*")}


def test_they_are_saved_where_the_tokens_are_reached_and_kept(place):
    whole = run(train_lm, place, "tokens", *GIVEN)
    assert kept(whole) == {*STEPS.values(), 10}
    seen = rows(whole, "tokens")
    found = json.loads((whole / "metrics.json").read_text())["checkpoints"]
    assert {name: about["step"] for name, about in found.items()} == STEPS
    assert {name: about["tokens"] for name, about in found.items()} == {
        name: seen[step] for name, step in STEPS.items()
    }
    assert [seen[step] for step in (1, 2, 3)] == [TOKENS, 2 * TOKENS, 3 * TOKENS]
    card = (whole / "README.md").read_text()
    assert f"| kept checkpoints | `first` in `checkpoint-1` ({TOKENS:,} tokens), `chck_200` in `checkpoint-2`" in card

    copy = shutil.copytree(whole, place / "tokens-half")
    for step in (3, 10):
        shutil.rmtree(copy / f"checkpoint-{step}")
    (copy / "metrics.json").unlink()
    run(train_lm, place, copy.name, *GIVEN, GO_ON)
    assert kept(copy) == kept(whole)
    assert json.loads((copy / "metrics.json").read_text())["checkpoints"] == found
    assert (copy / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_numbers_have_names():
    given = CheckpointsSection(save_tokens=[1e6, 1.5e6, 2e9, 131072, 50])
    assert given.counts == {
        "chck_1M": 10**6, "chck_1.5M": 1_500_000, "chck_2B": 2 * 10**9, "chck_131.072K": 131_072, "chck_50": 50,
    }  # fmt: skip
    spaced = CheckpointsSection(saves_per_decade=3).counts
    assert list(spaced)[:7] == ["chck_10", "chck_22", "chck_46", "chck_100", "chck_220", "chck_460", "chck_1K"]
    assert spaced["chck_4.6M"] == 4_600_000
    for many in range(1, 21):
        section = CheckpointsSection(saves_per_decade=many)
        assert len(section.counts) == 14 * many, "each number has a name of its own"


@pytest.mark.parametrize(
    "given", [[], [0], [1.5], ["1e6"], [1e6, 1e6], {"main": 1e6}, {"a/b": 1e6}, {"..": 1}, {}, {"": 2}]
)
def test_what_names_nothing_is_refused(given):
    with pytest.raises(ConfigError, match=r"^checkpoints.save_tokens="):
        CheckpointsSection(save_tokens=given)


def test_room_is_counted_for_each_step_that_saves():
    assert token_saves([1, 50, 100, 101, 900, 901], tokens_a_step=100, steps=9, done=0) == 3
    assert token_saves([1, 50, 100, 101, 900, 901], tokens_a_step=100, steps=9, done=1) == 2

"""The coordinate check at widths that take seconds: with muP a few steps change as much at every width."""

import pytest

from benchmarks.coordinates import CASES, QUANTITIES, draw, exponent, exponents, measure

WIDTHS = (32, 64, 128)


@pytest.fixture(scope="module")
def rows():
    return measure(WIDTHS, seeds=2, steps=(1, 4))


def test_with_mup_activations_change_as_much_at_every_width(rows):
    """Nearly flat with either optimiser, where standard parametrization grows by a power of the width."""
    found = {(one["optimizer"], one["parametrization"], one["quantity"]): one["exponent"] for one in exponents(rows)}
    assert found.keys() == {(*case, name) for case in CASES for name in QUANTITIES}
    for kind in ("adamw", "muon"):
        assert abs(found[kind, "mup", "states"]) < 0.25, found
        assert abs(found[kind, "mup", "logits"]) < 0.25, found
        for name in QUANTITIES:
            assert found[kind, "standard", name] > found[kind, "mup", name] + 0.2, found
    assert found["adamw", "standard", "states"] > 0.5, found


def test_the_base_width_is_the_same_in_both(rows):
    for kind in ("adamw", "muon"):
        own = [row for row in rows if row["optimizer"] == kind and row["width"] == WIDTHS[0]]
        standard, mup = (
            [row["change"] for row in own if row["parametrization"] == name] for name in ("standard", "mup")
        )
        assert standard == mup


def test_exponents_are_those_of_powers(rows, tmp_path):
    assert exponent([{"width": w, "change": 3 * w**0.7} for w in (10, 30, 500)]) == pytest.approx(0.7)
    draw(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")

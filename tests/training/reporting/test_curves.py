"""What can be read from the pictures of a run."""

import json
import math

import pytest
from matplotlib.figure import Figure

from settings.paths import ROOT
from training.reporting.curves import Costs, draw_curves

DEMO = [json.loads(line) for line in (ROOT / "experiments/results/demo/metrics.jsonl").read_text().splitlines()]


def rows(losses, evaluated=()):
    """A log of so many steps, with validation at some of them."""
    counts = [{"step": i, "tokens": 100 * i, "seconds": 60.0 * i, "total_flos": 10**12 * i} for i in range(1, 99)]
    logs = [counts[i] | {"loss": loss, "learning_rate": 1e-3, "grad_norm": loss} for i, loss in enumerate(losses)]
    return logs + [counts[step - 1] | {"eval_loss": loss} for step, loss in evaluated]


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """A function: a log to the panels of its picture, whose parts would be cleared otherwise."""
    save, kept = Figure.savefig, []

    def keep(figure, *args, **kwargs):
        save(figure, *args, **kwargs)
        kept.append(figure)
        figure.clear = lambda: None

    monkeypatch.setattr(Figure, "savefig", keep)

    def panels(history, floor=None, rate_of=None):
        draw_curves(history, tmp_path / "curves.png", floor, rate_of)
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
        kept[-1].canvas.draw()
        return kept[-1].axes

    return panels


def labels(panel):
    return [text.get_text() for text in panel.get_legend().get_texts()]


@pytest.mark.parametrize("history", [DEMO, rows([7.6, 7.2, 6.0]), rows([5.0] * 40, [(40, 4.0)])])
@pytest.mark.parametrize("floor", [None, 0.963])
def test_every_loss_is_in_view(draw, history, floor):
    losses = draw(history, floor)[0]
    low, high = losses.get_ylim()
    first, last = losses.get_xlim()
    for row in history:
        if (loss := row.get("loss", row.get("eval_loss"))) is not None:
            assert low <= loss <= high
            assert first <= row["step"] <= last
    assert floor is None or (low <= floor and f"floor {floor:.3f}: -log p of the validation text" in labels(losses))


def test_losses_that_fall_by_orders_of_magnitude_have_a_logarithmic_axis(draw):
    assert draw(rows([7.0, 1.0, 0.001]))[0].get_yscale() == "log"
    assert draw(rows([7.0, 6.0, 5.0]))[0].get_yscale() == "linear"
    assert draw(rows([7.0, 1.0, 0.0]))[0].get_yscale() == "linear"


def test_ticks_tell_tokens_time_and_flops():
    costs = Costs(rows([1.0] * 90))
    assert costs(0) == "0\n0\n0\n0"
    assert costs(1) == "1\n100\n1.0 min\n1.0e12"
    assert costs(88.5) == "88\n8.8k\n1.5 h\n8.8e13"
    assert costs(91) == costs(-1) == ""


def test_a_run_that_diverged_shows_where(draw):
    losses = draw(rows([5.0, 4.0, math.nan, math.inf], [(4, math.nan)]))[0]
    assert labels(losses) == ["training", "validation", "non-finite loss, first at step 3"]
    assert draw(rows([math.nan]))[0].get_yscale() == "linear"


def test_rate_and_gradient_are_below(draw):
    _, rates, norms = draw(rows([3.0, 2.0]))
    assert [line.get_ydata().tolist() for panel in (rates, norms) for line in panel.lines] == [[1e-3, 1e-3], [3, 2]]
    without_norm = [{k: v for k, v in row.items() if k != "grad_norm"} for row in rows([3.0, 2.0])]
    assert len(draw(without_norm)[2].lines[0].get_ydata()) == 0


def test_an_empty_log_is_an_empty_picture(draw):
    assert draw([])[0].get_legend() is None


def test_the_learning_rate_is_that_of_every_step_where_its_schedule_is_known(draw):
    """And that of the logs where they have another, as after a resume with another rate."""
    history = [row for row in rows([3.0] * 40) if row["step"] % 20 == 0]

    def rate(step):
        return 1e-3 * min(1, step / 5)

    (line,) = draw(history, rate_of=rate)[1].get_lines()
    assert line.get_xydata()[:6].tolist() == [[step, pytest.approx(rate(step))] for step in range(1, 7)]
    assert len(line.get_xydata()) == 40
    history[0]["learning_rate"] = 2e-3
    (line,) = draw(history, rate_of=rate)[1].get_lines()
    assert line.get_xydata().tolist() == [[20, 2e-3], [40, 1e-3]]

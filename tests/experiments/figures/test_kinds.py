"""What each kind of figure draws: the artists before they are pixels."""

import pytest
from matplotlib.colors import to_hex

from experiments.figures.kinds import GREY, TEST, TRAIN, draw
from experiments.figures.panels import PALETTE
from experiments.report import Labels
from experiments.runs import Run, group
from settings.checks import ConfigError

# (recipe, share): steps to grok by seed
GROK = {
    ("ours", 0.3): (None, 800),
    ("ours", 0.5): (200, 300),
    ("paper", 0.3): (None, None),
    ("paper", 0.5): (3000, 5000),
}
EVALUATED = (0, 1, 10, 100, 1000)


@pytest.fixture
def rows():
    """Two recipes at two shares, two seeds each; accuracies that are easy to recognise."""
    runs = []
    for (recipe, share), values in GROK.items():
        for seed, grok in enumerate(values):
            lines = [{"step": s, "train_accuracy": s / 1000, "test_accuracy": seed * s / 1000} for s in EVALUATED]
            if seed == 1:
                lines.append({"step": 2000, "train_accuracy": 1.0, "test_accuracy": 1.0})
            axes = {"recipe": recipe, "train_fraction": share, "seed": seed}
            numbers = {"steps_to_fit": 100 + 20 * seed, "steps_to_grok": grok, "steps": 6000, "test_accuracy": 0.9}
            runs.append(Run("cell", f"seed={seed}", axes, numbers, lines))
    return group(runs)


def figure_of(rows, labels=None, **settings):
    figure = draw("figure", {"title": "A title"} | settings, rows, Labels(labels or {}))
    figure.draw_without_rendering()
    assert figure.get_suptitle() == "A title"
    return figure


def points(line) -> list[tuple]:
    return [(float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def marked(axes, marker: str) -> list:
    return [line for line in axes.get_lines() if line.get_marker() == marker]


def legend_of(figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_lines_show_medians_every_run_and_those_that_never_got_there(rows):
    figure = figure_of(rows, {"ours": "Muon"}, kind="lines", x="data.train_fraction", y="steps_to_grok", hue="recipe")
    (axes,) = figure.axes
    ours, paper = marked(axes, "None")
    assert points(ours) == [(0.5, 250)]  # at 0.3 one of two got there: there is no median
    assert points(paper) == [(0.5, 4000)]
    assert [to_hex(line.get_color()).upper() for line in (ours, paper)] == list(PALETTE[:2])
    assert [points(line) for line in marked(axes, "o")] == [
        [(0.3, 800), (0.5, 200), (0.5, 300)],
        [(0.5, 3000), (0.5, 5000)],
    ]
    triangles = marked(axes, "^")
    assert [points(line) for line in triangles] == [[(0.3, 6000)], [(0.3, 6000), (0.3, 6000)]]
    assert all(line.get_markerfacecolor() == "none" for line in triangles)
    assert legend_of(figure) == ["Muon", "paper", "not reached in so many steps"]
    assert (axes.get_xlabel(), figure.get_supylabel()) == ("train fraction", "steps to grok")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.3", "0.5"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")


def test_lines_in_panels_on_log_axes(rows):
    settings = {"x": "train_fraction", "y": "test_accuracy", "panels": "recipe", "log_x": True, "log_y": True}
    figure = figure_of(rows, kind="lines", **settings)
    assert [axes.get_title() for axes in figure.axes] == ["ours", "paper"]
    assert {(axes.get_xscale(), axes.get_yscale()) for axes in figure.axes} == {("log", "log")}
    assert [points(marked(axes, "None")[0]) for axes in figure.axes] == [[(0.3, 90), (0.5, 90)]] * 2
    assert figure.get_supylabel() == "test accuracy (%)"


def test_words_stand_side_by_side_and_numbers_are_shades(rows):
    figure = figure_of(rows, kind="lines", x="recipe", y="steps_to_fit", hue="train_fraction")
    assert points(marked(figure.axes[0], "None")[0]) == [(0, 110), (1, 110)]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["ours", "paper"]
    assert figure.legends[0].get_title().get_text() == "train fraction"
    with pytest.raises(ConfigError, match="figure: log_x with recipe = ours, paper; leave log_x out"):
        figure_of(rows, kind="lines", x="recipe", y="steps_to_fit", hue="train_fraction", log_x=True)


def test_bars_have_whiskers_and_a_dot_each_run(rows):
    figure = figure_of(rows, kind="bars", y=["steps_to_grok", "test_accuracy"], log=True)
    grok, accuracy = figure.axes
    assert [patch.get_width() for patch in grok.patches] == [250, 4000]
    assert [patch.get_width() for patch in accuracy.patches] == [90] * 4
    halves = [bar.lines[2][0].get_segments()[0] for bar in grok.containers if hasattr(bar, "has_xerr")]
    assert [list(half[:, 0]) for half in halves] == [[200, 300], [3000, 5000]]
    assert [points(line) for line in marked(grok, "o")] == [[(800, 0)], [(200, 1), (300, 1)], [(3000, 3), (5000, 3)]]
    assert [points(line) for line in marked(grok, "^")] == [[(6000, 0)], [(6000, 2), (6000, 2)]]
    names = [text.get_text() for text in grok.get_yticklabels()]
    assert names == [f"{recipe}, train fraction {share}" for recipe, share in GROK]
    assert grok.yaxis_inverted()
    assert (grok.get_xscale(), grok.get_xlabel()) == ("log", "steps to grok")
    assert legend_of(figure) == [
        "median and range", "mean and range", "a run", "not reached in so many steps"
    ]  # fmt: skip


def test_gaps_go_from_one_milestone_to_the_other(rows):
    figure = figure_of(rows, kind="gaps")
    (axes,) = figure.axes
    solid = [line for line in axes.get_lines() if line.get_color() == GREY and line.get_linestyle() == "-"]
    dotted = [line for line in axes.get_lines() if line.get_linestyle() == ":"]
    assert [points(line) for line in solid] == [
        [(110, 0)],
        [(110, 1), (250, 1)],
        [(110, 2)],
        [(110, 3), (4000, 3)],
    ]
    assert points(dotted[0])[-1] == (6000, 0)
    assert points(dotted[2])[-1] == (6000, 2)
    dots = [(points(line)[0], line.get_color()) for line in marked(axes, "o")]
    assert dots[:3] == [((110, 0), TRAIN), ((110, 1), TRAIN), ((250, 1), TEST)]
    assert len(dots) == 6
    assert [points(line) for line in marked(axes, "|")][:2] == [[(100, 0), (120, 0)], [(800, 0)]]
    assert axes.get_xscale() == "log"
    assert legend_of(figure) == ["steps to fit", "steps to grok", "not reached in so many steps"]


def diverged(seed: int, *evaluated: int) -> Run:
    lines = [{"step": s, "train_accuracy": 0.5, "test_accuracy": 0.25} for s in evaluated]
    axes = {"recipe": "ours", "train_fraction": 0.5, "seed": seed}
    return Run("cell", f"seed={seed}", axes, {"diverged": 31, "steps": 31}, lines)


def crosses(figure) -> list[tuple]:
    return [points(line)[0] for axes in figure.axes for line in marked(axes, "x")]


CROSSES = [
    ({"kind": "gaps"}, [(31, 1)]),
    ({"kind": "lines", "x": "train_fraction", "y": "steps_to_grok", "hue": "recipe"}, [(0.5, 31)]),
    ({"kind": "lines", "x": "train_fraction", "y": "test_accuracy", "hue": "recipe"}, [(0.5, 0)]),  # at the low end
    ({"kind": "bars", "y": ["steps_to_fit", "test_accuracy"]}, [(31, 1), (0, 1)]),
    ({"kind": "curves", "hue": "recipe", "panels": "train_fraction"}, [(31, 50), (31, 25)]),
]


@pytest.mark.parametrize(("settings", "expected"), CROSSES)
def test_a_run_that_diverged_is_a_cross_with_its_step(rows, settings, expected):
    before = figure_of(rows, **settings)
    rows[1].runs.append(diverged(2, 1, 10))
    figure = figure_of(rows, **settings)
    assert crosses(figure) == expected
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["31"] * len(expected)
    assert legend_of(figure)[-1] == "diverged, at that step"
    assert not crosses(before)
    assert [axes.get_xscale() for axes in figure.axes] == [axes.get_xscale() for axes in before.axes]


def test_a_run_that_diverged_does_not_cut_off_the_others(rows):
    rows[1].runs.append(diverged(2, 1, 10))
    figure = figure_of(rows, kind="curves", hue="recipe", panels="train_fraction")
    train = figure.axes[1].get_lines()[0]
    assert points(train) == [(1, 0.1), (10, 1), (100, 10), (1000, 100)]


def test_rows_of_which_all_have_diverged_are_drawn():
    (row,) = group([diverged(0), diverged(1, 10)])
    for settings in ({"kind": "gaps"}, {"kind": "curves"}, {"kind": "bars", "y": "steps_to_fit"}):
        assert len(crosses(figure_of([row], **settings))) == {"curves": 4}.get(settings["kind"], 2)


def test_curves_are_means_with_a_band_over_the_steps_that_all_runs_share(rows):
    figure = figure_of(rows, kind="curves", hue="recipe", panels="train_fraction")
    assert [axes.get_title() for axes in figure.axes] == ["train fraction 0.3", "train fraction 0.5"]
    axes = figure.axes[0]
    train, test = axes.get_lines()[:2]
    assert points(train) == [(1, 0.1), (10, 1), (100, 10), (1000, 100)]
    assert points(test) == [(1, 0.05), (10, 0.5), (100, 5), (1000, 50)]
    assert (train.get_linestyle(), test.get_linestyle()) == ("--", "-")
    assert [to_hex(line.get_color()).upper() for line in axes.get_lines()[::2]] == list(PALETTE[:2])
    band = axes.collections[1].get_paths()[0].vertices
    assert band[:, 1].min() == 0
    assert band[:, 1].max() == 100
    assert (axes.get_xscale(), axes.get_xlabel(), figure.get_supylabel()) == ("log", "steps", "accuracy (%)")
    assert legend_of(figure) == ["ours", "paper", "train", "test"]


def test_one_recipe_has_a_colour_each_split_as_in_the_paper(rows):
    figure = figure_of(rows[:1], kind="curves")
    assert [line.get_color() for line in figure.axes[0].get_lines()] == [TRAIN, TEST]
    with pytest.raises(ConfigError, match=r"cell, seed=0 has no validation_accuracy in its evaluations; choose"):
        figure_of(rows[:1], kind="curves", split="validation")


def test_different_runs_are_not_drawn_as_one(rows):
    with pytest.raises(ConfigError, match="figure: the runs differ in train_fraction too; make it hue or panels"):
        figure_of(rows, kind="curves", hue="recipe")
    with pytest.raises(ConfigError, match="figure: the runs differ in recipe too; make it hue or panels"):
        figure_of(rows, kind="lines", x="train_fraction", y="steps_to_grok")
    with pytest.raises(ConfigError, match="figure: colour is no axis of the runs; there are recipe, train_fraction"):
        figure_of(rows, kind="curves", hue="colour")


@pytest.mark.parametrize(
    "settings", [{"kind": "gaps"}, {"kind": "curves", "hue": "recipe", "panels": "train_fraction"}]
)
def test_no_text_lies_upon_another(rows, settings):
    figure = figure_of(rows, {"ours": "a recipe that takes many words to be told apart from others"}, **settings)
    texts = [axes.xaxis.label for axes in figure.axes] + [figure._supylabel, figure._suptitle, *figure.legends]
    texts += [tick.label1 for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for tick in axis._update_ticks()]
    boxes = [text.get_window_extent() for text in texts if text and text.get_visible()]
    boxes = [box for box in boxes if box.width > 1]
    assert len(boxes) > 8
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)

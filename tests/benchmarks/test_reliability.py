"""What steps beside the stock Trainer's come to, against ratios worked out by hand."""

from benchmarks.reliability import compare


def test_the_ratio_is_that_of_neighbours():
    """A machine that is ten times as slow in some rounds: each round has its ratio, the medians another."""
    stock = [1.0, 10.0, 1.0, 10.0, 1.0, 10.0, 1.0]
    ratios = [1.1, 0.9, 1.2, 0.8, 1.3, 1.0, 1.4]
    found = compare([{"stock": one, "ours": one * ratio} for one, ratio in zip(stock, ratios, strict=True)])
    assert found == {
        "step_milliseconds": {"stock": 1000.0, "ours": 1400.0},
        "step_ratio": 1.1,
        "interval": [1.1, 1.1],  # the fourth from both ends
        "step_ratios": ratios,
    }

"""What a run has spent: by its logs, and of its budget, in words."""

SPENT = {
    "tokens": ("tokens", 1, ",.0f", "tokens"),
    "flops": ("total_flos", 1, ".5g", "FLOPs"),
    "minutes": ("seconds", 60, ".3g", "minutes"),
    "epochs": ("epochs", 1, ".5g", "epochs"),
}
"""By the name of a budget: the metric of what was spent, its units in one of the budget, a format, and the unit."""


def describe_spending(metrics: dict) -> str:
    """What the metrics of a run say of its budget; empty if it has none."""
    for name, (metric, scale, form, unit) in SPENT.items():
        if amount := metrics.get(f"budget_{name}"):
            spent = (metrics[metric] or 0) / scale
            return f"{spent:{form}} of {amount:{form}} {unit} spent ({spent / amount:.1%})"
    return ""


def last_logged(history: list[dict], name: str) -> float:
    """The last logged value of a name, or 0."""
    return next((row[name] for row in reversed(history) if name in row), 0)

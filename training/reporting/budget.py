"""What a run has spent of its budget, in words."""

SPENT = {
    "tokens": ("tokens", ",.0f", "tokens"),
    "flops": ("total_flos", ".5g", "FLOPs"),
    "epochs": ("epochs", ".5g", "epochs"),
}
"""By the name of a budget: the metric that says what was spent of it, the format of its numbers, and its unit."""


def describe_spending(metrics: dict) -> str:
    """What the metrics of a run say of its budget; empty if it has none."""
    for name, (metric, form, unit) in SPENT.items():
        if amount := metrics.get(f"budget_{name}"):
            spent = metrics[metric] or 0
            return f"{spent:{form}} of {amount:{form}} {unit} spent ({spent / amount:.1%})"
    return ""

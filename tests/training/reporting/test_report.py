"""What a card says of a run that is not finished."""

from types import SimpleNamespace

import pytest
from transformers import TrainerState

from training.reporting.report import Report
from training.reporting.summary import result_rows


@pytest.mark.parametrize(
    ("evaluated", "said"),
    [(20, None), (15, "after step 15, before the last 5 steps"), (19, "after step 19, before the last 1 step")],
)
def test_an_evaluation_before_the_last_step_is_given_with_its_step(evaluated, said):
    validation = SimpleNamespace(documents=3)
    prepared = SimpleNamespace(compared_groups={}, info={"validation": validation}, tokenizer=range(64))
    data = SimpleNamespace(prepared=prepared, floor=None, train_set=SimpleNamespace(tokens_per_pass=9))
    run = SimpleNamespace(experiment=SimpleNamespace(budget=SimpleNamespace(amounts={})))
    losses = {"eval_loss": 2.0, "eval_loss_standard_error": 0.1, "eval_perplexity": 7.4}
    state = TrainerState(global_step=20, log_history=[{"step": 5, **losses}, {"step": evaluated, **losses}])
    metrics = Report.metrics(SimpleNamespace(data=data, run=run), state)
    assert result_rows(metrics).get("evaluated") == said

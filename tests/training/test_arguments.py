"""What the checks of arguments let pass, and what they decide; the mistakes themselves are in test_mistakes.py."""

import pytest
import torch

from config import load_experiment
from training.arguments import training_arguments


@pytest.fixture
def arguments(tmp_path):
    """A function: overrides to arguments."""
    path = tmp_path / "example.yaml"
    path.write_text(f"training: {{use_cpu: true, bf16: false, max_steps: 100, output_dir: {tmp_path / 'run'}}}\n")
    return lambda *overrides: training_arguments(load_experiment(str(path), list(overrides)))


@pytest.mark.parametrize("metric", ["loss", "perplexity", "eval_bits_per_byte", "loss/ArXiv"])
@pytest.mark.parametrize("asked_for", ["load_best_model_at_end=true", "save_strategy=best"])
def test_the_lowest_is_the_best(arguments, metric, asked_for):
    """transformers would take the highest of what does not end in `loss`."""
    args = arguments(f"training.{asked_for}", f"training.metric_for_best_model={metric}")
    assert args.greater_is_better is False


@pytest.mark.parametrize(
    "override",
    [
        "training.optim=adafactor",
        "training.optim=sgd",
        "training.optim_args=null",
        "training.max_grad_norm=0",
        "training.warmup_steps=100",
        "training.warmup_steps=1.0",
        "training.max_steps=5",  # shorter than the warm-up that is there by itself
        "training.eval_steps=1",
        "training.save_total_limit=null",
        "training.include_num_input_tokens_seen=no",
        "training.deepspeed=null",
        "training.report_to=none",
        "training.torch_compile_mode=reduce-overhead",
        "training.torch_compile_backend=inductor",
        "training.lr_scheduler_type=reduce_lr_on_plateau",
        "training.lr_scheduler_type=greedy",
        "training.lr_scheduler_kwargs={}",
        """training.lr_scheduler_kwargs='{"num_cycles": 1}'""",
        "training.debug=underflow_overflow",
    ],
)
def test_what_is_no_mistake_passes(arguments, override):
    arguments(override)


@pytest.mark.parametrize("text", ["momentum=0.9", "momentum=0.9,nesterov=true"])
def test_options_of_an_optimizer_pass(arguments, text):
    args = arguments("training.optim=sgd", f"training.optim_args={text}")
    assert args.optim_args == text


def test_random_numbers_stay_as_they_were(arguments):
    before = torch.get_rng_state()
    arguments("training.optim=adafactor")
    assert torch.equal(torch.get_rng_state(), before)

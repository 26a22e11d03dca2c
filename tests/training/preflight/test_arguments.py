"""What the checks of arguments let pass, and what they decide; the mistakes themselves are in test_mistakes.py."""

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR

from settings.checks import warn
from settings.loading import load_experiment
from training.preflight.arguments import training_arguments
from training.preflight.schedule import schedule


@pytest.fixture
def arguments(tmp_path):
    """A function: overrides to arguments."""
    path = tmp_path / "example.yaml"
    path.write_text(f"training: {{use_cpu: true, bf16: false, max_steps: 100, output_dir: {tmp_path / 'run'}}}\n")
    return lambda *overrides: training_arguments(load_experiment(str(path), list(overrides)))


def test_trackers_know_a_run_by_its_folder(arguments):
    assert arguments().run_name == "run"
    assert arguments("training.output_dir=runs/minus/").run_name == "minus"
    assert arguments("training.run_name=mine").run_name == "mine"


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
        "training.report_to=null",
        "training.optim_args=",
        "training.torch_compile_mode=reduce-overhead",
        "training.torch_compile_backend=inductor",
        "training.lr_scheduler_type=reduce_lr_on_plateau",
        "training.lr_scheduler_type=greedy",
        "training.lr_scheduler_kwargs={}",
        "training.lr_scheduler_type=warmup_stable_decay; training.lr_scheduler_kwargs={num_decay_steps: 1e1}",
        "training.max_grad_norm=-1",
        "training.eval_delay=-1",
        "training.logging_strategy=no; training.logging_steps=0",
        "training.save_strategy=no; training.save_steps=0",
        "training.eval_strategy=epoch; training.eval_steps=0",
        "training.run_name=",
        "training.save_only_model=true",
        "training.optim=adamw_torch; optimizer.kind=muon",
        "training.gradient_checkpointing=true; training.gradient_checkpointing_kwargs={determinism_check: none}",
        "card.license=openrail++",
        "card.license=c-uda",
        "card.license=0bsd",
        "card.language=zh_Hant",
        "data.bad_records=1",
        "data.layout=documents; data.reset_at_documents=true",
        "data.cache_dir=[my] data",
        """training.lr_scheduler_kwargs='{"num_cycles": 1}'""",
        "training.debug=underflow_overflow",
    ],
)
def test_what_is_no_mistake_passes(arguments, override, capsys):
    arguments(*override.split("; "))
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.warmup_steps=200", "training.warmup_steps=200 is longer than training.max_steps=100"),
        (
            "training.lr_scheduler_type=warmup_stable_decay; training.lr_scheduler_kwargs={num_decay_steps: 98}",
            "num_decay_steps=98 after a warm-up of 5 is longer than training.max_steps=100, so the rate decays over "
            "the last 95 steps",
        ),
        (
            "training.lr_scheduler_type=warmup_stable_decay; "
            "training.lr_scheduler_kwargs={num_stable_steps: 90, num_decay_steps: 98}",
            "num_decay_steps=98 after a warm-up of 5 and num_stable_steps=90 is longer than training.max_steps=100, so "
            "the run ends before the decay does",
        ),
        ("training.eval_delay=101", "training.eval_delay=101.0 is longer than training.max_steps=100"),
        ("training.save_total_limit=0", "training.save_total_limit=0 keeps every checkpoint"),
        ("training.save_total_limit=-1", "training.save_total_limit=-1 keeps every checkpoint"),
        ("training.ddp_backend=gloo", "training.ddp_backend=gloo has no effect with one process"),
        ("training.hub_strategy=end", "training.hub_strategy=end has no effect with training.push_to_hub"),
        (
            "training.gradient_checkpointing_kwargs={use_reentrant: true}",
            "has no effect with training.gradient_checkpointing=None; it needs training.gradient_checkpointing=true",
        ),
        (
            "training.lr_scheduler_type=constant; training.lr_scheduler_kwargs={num_cycles: 2}",
            "training.lr_scheduler_type=constant does not use training.lr_scheduler_kwargs={'num_cycles': 2}",
        ),
        (
            "training.lr_scheduler_type=cosine_with_min_lr; training.lr_scheduler_kwargs={min_lr_rate: 2}",
            "raises the learning rate to 2 times training.learning_rate=0.001",
        ),
        ("training.enable_jit_checkpoint=true", "changes nothing: in any case a run that receives SIGTERM is saved"),
        ("training.restore_callback_states_from_checkpoint=true", "in any case a resumed run restores its callbacks"),
        ("training.train_sampling_strategy=random", "in any case each epoch is shuffled"),
        ("card.license=MIT", "did you mean mit?"),
        ("card.license=Apache 2.0", "did you mean apache-2.0?"),
        ("card.language=english", "card.language=english is not an ISO 639 code"),
    ],
)
def test_what_is_odd_is_said_once_and_passes(arguments, capsys, override, said):
    warn.cache_clear()
    for _ in range(2):
        args = arguments(*override.split("; "))
    told = capsys.readouterr().err
    assert said in told
    assert told.startswith("warning: ")
    assert told.count("\n") == 1
    assert args.train_sampling_strategy == "sequential"
    assert args.save_total_limit == 2 or "limit" in override
    assert not args.enable_jit_checkpoint
    assert not args.ddp_backend


def wsd(arguments, kwargs: str, steps: int = 100, warmup: int = 10) -> list[float]:
    """The rates of a run as shares of its peak, with a linear decay."""
    kind = ["training.lr_scheduler_type=warmup_stable_decay", f"training.lr_scheduler_kwargs={{{kwargs}}}"]
    args = arguments(*kind, f"training.warmup_steps={warmup}", f"training.max_steps={steps}")
    return [schedule(args, steps).lr_lambdas[0](step) for step in range(steps)]


def test_a_short_trial_of_a_schedule_given_in_steps_is_a_schedule(arguments):
    """A decay at the end begins at the peak; one that has its place is begun where it is."""
    for steps in (500, 20):  # each has a warm-up of 10 and a decay of the rest, of 400 at most
        decay, warm = min(400, steps - 10), [step / 10 for step in range(10)]
        expected = [*warm, *[1.0] * (steps - 10 - decay), *[1 - step / decay for step in range(decay)]]
        assert wsd(arguments, "num_decay_steps: 400, decay_type: linear", steps) == pytest.approx(expected)
    placed = "num_stable_steps: 5, num_decay_steps: 400, decay_type: linear"
    assert wsd(arguments, placed, 20) == wsd(arguments, placed, 500)[:20]
    assert wsd(arguments, "num_decay_steps: 400", 8) == [step / 10 for step in range(8)]  # the warm-up alone


def test_a_schedule_of_a_later_release_is_left_to_it(arguments, monkeypatch):
    """One that is no function of the step, and waits for nothing."""
    monkeypatch.setattr("training.preflight.schedule.get_scheduler", lambda *given, **_: ExponentialLR(given[1], 0.9))
    assert arguments("training.lr_scheduler_type=polynomial").lr_scheduler_type == "polynomial"


@pytest.mark.parametrize("text", ["momentum=0.9", "momentum=0.9,nesterov=true"])
def test_options_of_an_optimizer_pass(arguments, text):
    args = arguments("training.optim=sgd", f"training.optim_args={text}")
    assert args.optim_args == text


def test_random_numbers_stay_as_they_were(arguments):
    before = torch.get_rng_state()
    arguments("training.optim=adafactor")
    assert torch.equal(torch.get_rng_state(), before)

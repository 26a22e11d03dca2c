"""What `TrainerHooks` relies on in transformers' Trainer is there; each hook is called when its method says."""

import ast
import inspect
import math
from pathlib import Path

import accelerate
import pytest
import torch
import transformers
from transformers import Trainer

import training
from tests.training.test_trainer import make_trainer  # noqa: F401
from training.trainer_hooks import TrainerHooks

# ruff: noqa: F811

HOOKS = [name for name in vars(TrainerHooks) if name.startswith("_") and not name.startswith("__")]
CATCH_ALL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def signature_change(hook: str, ours: type, theirs: type) -> str | None:
    """How the parameters that `ours` relies on differ in `theirs`; None if they do not, or all are passed through."""
    release = f"transformers {transformers.__version__}"
    if not hasattr(theirs, hook):
        return f"{hook}: {release} has no Trainer.{hook} any more; see TrainerHooks.{hook} in training/trainer_hooks.py"
    relied_on = inspect.signature(getattr(ours, hook)).parameters
    given = inspect.signature(getattr(theirs, hook)).parameters
    if [*relied_on] == [*given] or any(one.kind in CATCH_ALL for one in relied_on.values()):
        return None
    return (
        f"{hook}: {release} has Trainer.{hook}({', '.join(given)}), and training/trainer_hooks.py overrides "
        f"{hook}({', '.join(relied_on)})"
    )


@pytest.mark.parametrize("hook", HOOKS)
def test_the_signature_of_a_hook_is_the_one_we_rely_on(hook):
    assert (change := signature_change(hook, TrainerHooks, Trainer)) is None, change


def test_a_changed_signature_is_named():
    class Newer:
        def _save(self, output_dir=None, state_dict=None, shards=1): ...

    changes = [signature_change(hook, TrainerHooks, Newer) for hook in ("_save", "_load_rng_state")]
    assert "has Trainer._save(self, output_dir, state_dict, shards), and training/trainer_hooks.py" in changes[0]
    assert "has no Trainer._load_rng_state any more" in changes[1]


def test_the_trainer_clips_through_the_accelerator():
    """Which both the clipped and the unclipped norm come from; `_Moments` needs the callback right after."""
    loop = inspect.getsource(Trainer._run_epoch)
    order = [loop.index(name) for name in ("_clip_grad_norm(", "_get_grad_norm(", "on_pre_optimizer_step(")]
    assert order == sorted(order)
    for method in (Trainer._clip_grad_norm, Trainer._get_grad_norm):
        assert "self.accelerator.clip_grad_norm_(" in inspect.getsource(method)
    assert [*inspect.signature(accelerate.Accelerator.clip_grad_norm_).parameters][:3] == [
        "self",
        "parameters",
        "max_norm",
    ]


def test_private_parts_of_the_trainer_are_used_in_one_file():
    """Methods that a file overrides, and any private attribute of the Trainer that it reads or sets."""
    private = {name for name in vars(Trainer) if name.startswith("_") and not name.startswith("__")}
    private |= {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(Trainer).lstrip()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self" and node.attr.startswith("_")
    }
    for path in Path(training.__file__).parent.rglob("*.py"):
        if path.name != "trainer_hooks.py":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                name = getattr(node, "name", None) if isinstance(node, ast.FunctionDef) else getattr(node, "attr", None)
                assert name not in private, f"{path}, line {node.lineno}: {name} is the Trainer's"


@pytest.mark.parametrize("limit", [0.5, 0.0])
def test_each_step_is_judged_once_by_its_norm_before_clipping(make_trainer, limit):
    trainer, seen = make_trainer(max_grad_norm=limit, gradient_accumulation_steps=2), []
    judge = trainer.before_optimizer_step

    def note():
        gradients = [weight.grad.norm() for weight in trainer.model.parameters()]
        seen.append((trainer.grad_norm.item(), torch.stack(gradients).norm().item()))
        judge()

    trainer.before_optimizer_step = note
    trainer.train()
    logged = [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
    assert [before for before, _ in seen] == logged
    assert len(seen) == 4
    for before, after in seen:
        assert after == pytest.approx(min(before, limit or math.inf), rel=1e-4)
    assert trainer.grad_norm is None


def test_hooks_are_called_in_the_order_of_a_run(make_trainer, monkeypatch):
    calls = []
    for name in ("prepare_state", "before_epoch", "before_optimizer_step", "save_checkpoint", "before_finalizing"):
        trainer_class = next(one for one in type(make_trainer()).__mro__ if name in vars(one))
        method = vars(trainer_class)[name]
        monkeypatch.setattr(
            trainer_class,
            name,
            lambda self, *given, name=name, method=method: (calls.append(name), method(self, *given))[1],
        )
    make_trainer(max_steps=2, save_strategy="steps", save_steps=2).train()
    steps = ["before_optimizer_step", "before_optimizer_step", "save_checkpoint"]
    order = [name for name in calls if name != "before_epoch"]
    assert order[0] == "prepare_state"
    assert order[-1] == "before_finalizing"
    assert [name for name in order if name in steps] == steps
    assert calls.index("before_epoch") > calls.index("prepare_state")


def test_the_loss_alone_is_judged_where_the_norm_is_not_to_be_had(make_trainer):
    trainer = make_trainer()
    trainer._loss, trainer.grad_norm = torch.tensor(1.0), None
    trainer.before_optimizer_step()
    assert trainer.guard.skipped == 0
    trainer._loss = torch.tensor(math.nan)
    trainer.before_optimizer_step()
    assert trainer.guard.skipped == 1

"""The Trainer for language models: exact validation, FLOPs, speed and token counts in every log."""

import time
from collections.abc import Mapping

import torch
from torch import nn
from transformers import EvalPrediction

from modeling.accounting import training_flops
from settings.recipe_sections import SchedulesSection
from settings.sections import OptimizerSection
from training.preflight.schedule import fitting_kwargs
from training.reporting.budget import last_logged
from training.reporting.metrics import LanguageModeling

from .optimization.averaging_trainer import AveragingTrainer
from .optimization.optimizers import OptimizerWork, build_optimizer, decayed_parameters
from .optimization.schedules import Schedules
from .optimization.width import groups_by_width
from .optimization.z_loss import ZLoss

_STOCK, _CONSTANT = OptimizerSection(), SchedulesSection()
GROUP_METRICS = ("loss", "loss_standard_error", "bits_per_byte")


class KindlingTrainer(AveragingTrainer):
    """A Trainer for causal language models.

    Every log has `tokens` (targets trained on), `total_flos` (training FLOPs as `modeling.accounting` defines them),
    `optimizer_flops` (of Muon's matrix products, if there are any) and `seconds`, all of which continue after a resume.
    A training log also has `tokens_per_second` and `mfu`, the share of `peak_flops` (FLOP/s of all devices) that
    `total_flos` amounts to.
    Evaluations report what `LanguageModeling` computes; `text_bytes` is the size of the validation text.
    With `group_bytes`, the same for each group in the order of their numbers, and batches that have `groups`, they also
    report each group's `GROUP_METRICS` and `targets`, as in `eval_loss/NAME`.
    `optimizer` and `schedules` are the experiment's sections of those names; `z_loss` is the coefficient of the z-loss,
    which training logs have as a value of its own.
    """

    def __init__(
        self,
        *args,
        text_bytes: int | None,
        group_bytes: Mapping[str, int | None] | None = None,
        peak_flops: float,
        optimizer=_STOCK,
        z_loss: float = 0.0,
        schedules=_CONSTANT,
        **kwargs,
    ):
        super().__init__(*args, compute_metrics=self._measure, **kwargs)
        self.metric = LanguageModeling()
        self.text_bytes = text_bytes
        self.group_bytes = group_bytes or {}
        self.peak_flops = peak_flops
        self.optimizer_section = optimizer
        self._new_targets = self._new_flops = 0
        self.optimizer_work = OptimizerWork()
        self.add_callback(self.optimizer_work)
        self.schedules = Schedules(schedules)
        self.add_callback(self.schedules)
        self.z_loss = ZLoss(z_loss) if z_loss else None
        if self.z_loss:
            self.add_callback(self.z_loss)
        self._started = None
        self._last_log = None
        self._evaluation_seconds = 0.0

    def _measure(self, prediction: EvalPrediction) -> dict[str, float]:
        nats_BG, targets_BG = prediction.predictions, prediction.label_ids
        values = self.metric.compute(nats=nats_BG[:, 0], targets=targets_BG[:, 0], text_bytes=self.text_bytes)
        for column, (name, text_bytes) in enumerate(self.group_bytes.items(), start=1):
            rows = targets_BG[:, column] > 0  # other rows have no target of this group
            if rows.any():
                nats, targets = nats_BG[rows, column], targets_BG[rows, column]
                found = self.metric.compute(nats=nats, targets=targets, text_bytes=text_bytes)
                found = {key: found[key] for key in GROUP_METRICS if key in found} | {"targets": int(targets.sum())}
                values |= {f"{key}/{name}": value for key, value in found.items()}
        return values

    def create_scheduler(self, num_training_steps, optimizer=None):
        """As the Trainer's, with a decay that fits into the run."""
        given = self.args.lr_scheduler_kwargs
        self.args.lr_scheduler_kwargs = fitting_kwargs(self.args, num_training_steps)
        try:
            return super().create_scheduler(num_training_steps, optimizer)
        finally:
            self.args.lr_scheduler_kwargs = given

    def predict_rows(self, model, inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each row's nats and targets by group, both (B, 1 + G), in place of logits and labels.

        A few numbers per row instead of T x V logits: validation of any size fits in memory, and the Trainer's
        gathering over processes, which drops repeated rows, remains correct.
        """
        inputs = self.prepare_inputs(inputs)
        targets_BT = inputs.pop("labels")[:, 1:]
        groups_BT = inputs.pop("groups")[:, 1:] if "groups" in inputs else None
        with torch.no_grad(), self.compute_loss_context_manager():
            logits_BTV = model(**inputs, use_cache=False).logits[:, :-1]  # a cache would ignore document boundaries
        nats = nn.functional.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction="none")
        counts_BT = (targets_BT != -100).long()
        return self._by_group(nats.view_as(targets_BT), groups_BT), self._by_group(counts_BT, groups_BT)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """As the Trainer's, with the z-loss in the gradient, weighted per target as the loss is."""
        if self.z_loss is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"]
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        targets = (labels[:, 1:] != -100).sum() if num_items_in_batch is None else num_items_in_batch
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            targets = targets / self.accelerator.num_processes  # gradients are averaged over processes
        loss = self.z_loss.add(loss, outputs.logits, labels, targets)
        return (loss, outputs) if return_outputs else loss

    def forget_step(self):
        """As the base class's, with the step's z-loss."""
        super().forget_step()
        if self.z_loss:
            self.z_loss.forget_step()

    def collect_sums(self):
        """As the base class's, with that of the z-loss."""
        super().collect_sums()
        if self.z_loss:
            self.z_loss.collect(self.accelerator.gather)

    def _by_group(self, values_BT: torch.Tensor, groups_BT: torch.Tensor | None) -> torch.Tensor:
        """Sums over tokens, (B, 1 + G): of all tokens, then of each group."""
        sums_BG = values_BT.new_zeros(len(values_BT), 1 + len(self.group_bytes))
        if groups_BT is not None:
            sums_BG.scatter_add_(1, groups_BT + 1, values_BT)
        sums_BG[:, 0] = values_BT.sum(-1)  # column 0 has held tokens without a group
        return sums_BG

    def flops_of(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Training FLOPs of a batch, as a tensor on the device; padding and rows without a target count nothing."""
        return training_flops(self.accelerator.unwrap_model(self.model).config, lengths(inputs["labels"])).sum()

    def floating_point_ops(self, inputs) -> int:  # noqa: ARG002
        """Return 0: `get_batch_samples` counts FLOPs without waiting for the device at each batch."""
        return 0

    def write_model(self, folder: str, state_dict: dict | None):
        """As the Trainer's, with `use_cache`, which is off only in training, and without a pickle of the arguments."""
        if not self.args.should_save:
            return
        model = self.accelerator.unwrap_model(self.model)
        before, model.config.use_cache = model.config.use_cache, True
        try:
            model.save_pretrained(folder, state_dict=state_dict)
        finally:
            model.config.use_cache = before
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def create_optimizer(self, model=None):
        """The optimiser of the `optimizer` section, by default `training.optim`, with rates of the model's width."""
        if self.optimizer is None and self.optimizer_section.is_stock:
            optimizer, trained = super().create_optimizer(model), self.model if model is None else model
            width = self.accelerator.unwrap_model(trained).config.width_multiplier
            optimizer.param_groups = groups_by_width(optimizer.param_groups, trained, width)
        elif self.optimizer is None:
            self.optimizer = build_optimizer(self.trained())
            self.optimizer_work.watch(self.optimizer)
        return self.optimizer

    def trained(self) -> list[tuple]:
        """What the optimiser is built from: the model, its arguments and its settings."""
        return [(self.model, self.args, self.optimizer_section)]

    def get_decay_parameter_names(self, model) -> list[str]:
        """Weight decay on matrices, never on norms or biases; on embeddings if `optimizer.decay_embeddings` is on."""
        return list(decayed_parameters(model, self.optimizer_section))

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As the Trainer's; also counts the step's targets and FLOPs, in tensors that only a log waits for."""
        if self._started is None:
            self._start_clock()
        samples, targets = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._new_targets = self._new_targets + targets
        self._new_flops = self._new_flops + sum(map(self.flops_of, samples))
        return samples, targets

    def tokens_seen(self) -> int:
        """Targets trained on, those of the present step among them. Waits for the device."""
        return self.state.num_input_tokens_seen + int(self._new_targets)

    def store_flos(self):
        """Bring the counts in `state` up to date; called before each log and save."""
        mine = torch.as_tensor(self._new_flops, device=self.args.device)
        self.state.total_flos += sum(self.accelerator.gather(mine.view(1)).tolist())  # exact: Python integers
        self.state.num_input_tokens_seen += int(self._new_targets)
        self._new_targets = self._new_flops = 0

    def evaluate(self, *args, **kwargs):
        """As the Trainer's; its time does not count towards the training speed."""
        if self._started is None:  # before the first batch
            self._start_clock()
        started = time.perf_counter()
        metrics = super().evaluate(*args, **kwargs)
        self._evaluation_seconds += time.perf_counter() - started
        return metrics

    def log(self, logs, start_time=None):
        """As the Trainer's, with tokens, FLOPs, seconds and speed."""
        self.store_flos()
        if "loss" in logs:
            logs |= self._speed() | self.schedules.present
            if self.z_loss:
                logs["z_loss"] = self.z_loss.mean(self.state.global_step, self.accelerator.gather)
                self.z_loss.start_again(self.state.global_step)
        logs |= {"tokens": self.state.num_input_tokens_seen, "total_flos": self.state.total_flos}
        logs |= {"optimizer_flops": self.optimizer_work.flops} if self.optimizer_work.flops else {}
        if self._started is None:  # no batch was trained on
            self._start_clock()
        logs["seconds"] = round(time.perf_counter() - self._started, 2)
        super().log(logs, start_time)

    def _start_clock(self):
        """Count seconds from the first batch, continuing from the last log of a resumed run."""
        now = time.perf_counter()
        self._started = now - last_logged(self.state.log_history, "seconds")
        self._last_log = (now - self._evaluation_seconds, self.state.num_input_tokens_seen, self.state.total_flos)

    def _speed(self) -> dict[str, float]:
        """Targets per second and utilisation since the last training log, without evaluations."""
        clock = time.perf_counter() - self._evaluation_seconds
        now = (clock, self.state.num_input_tokens_seen, self.state.total_flos)
        seconds, tokens, flops = (new - old for new, old in zip(now, self._last_log, strict=True))
        self._last_log = now
        return {"tokens_per_second": round(tokens / seconds, 1), "mfu": round(flops / seconds / self.peak_flops, 4)}


def lengths(labels: torch.Tensor) -> torch.Tensor:
    """Tokens of each row up to its last target, in a tensor without the last dimension; 0 where there is no target.

    What follows is padding. The first token is never a target.
    """
    positions = torch.arange(2, labels.shape[-1] + 1, device=labels.device)
    return ((labels[..., 1:] != -100) * positions).amax(-1) if len(positions) else labels.new_zeros(labels.shape[:-1])

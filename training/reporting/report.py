"""The report of a run on text: announcement, metrics, model card, conclusion."""

from pathlib import Path

from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

from data_prep.tokens.counts import tally
from modeling.accounting import embedding_parameters, parameters, training_flops_of
from modeling.configuration_kindling import KindlingConfig
from publishing.card import (
    Facts,
    describe_averaging,
    describe_flops,
    describe_optimizer,
    describe_recipe,
    write_card,
)
from publishing.publisher import saved_by_tokens
from settings.derivation.depth import describe
from settings.wording import format_count
from storage.files import write_json
from training.checkpoints.store import exit_on_disk_error
from training.dropout import per_process_randomness
from training.optimization.optimizers import step_flops
from training.preflight.memory import recipe_memory
from training.preflight.resources import memory_line
from training.processes import batch_size, share, unused_devices
from training.run import Run
from training.run_data import RunData

from .averages import of_saved_weights
from .budget import describe_spending, last_logged
from .callbacks import Curves, MetricsFile, Progress, Samples, tolerate_full_disk
from .provenance import read_provenance, record_start
from .summary import conclusion, group_rows, kept_checkpoints, passes, result_rows

SPEEDS = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}


class Report(TrainerCallback):
    """The results of a run: a model card, rewritten at each checkpoint, and the final metrics and conclusion."""

    def __init__(self, run: Run, data: RunData, config: KindlingConfig):
        """`config` is the model's. `ConfigError` if the prompt does not fit."""
        self.run, self.data = run, data
        self.samples = Samples(run.folder, data.tokenizer, run.experiment.sample, config.max_position_embeddings)

    def begin(self, trainer: Trainer):
        """Record how the run is made and print the announcement, in the process that saves."""
        if trainer.args.should_save:
            record_start(self.run, trainer.model.config)
            print("\n".join(self.announcement(trainer)))

    def announcement(self, trainer: Trainer) -> list[str]:
        """The lines printed before training: data, model, batch, device, memory."""
        experiment, prepared, hardware = self.run.experiment, self.data.prepared, self.run.hardware
        config, batch, steps = trainer.model.config, batch_size(trainer.args), trainer.args.max_steps
        info, start, tokens = prepared.info, experiment.model.get("path"), prepared.info["train"].tokens
        whole = tally(trainer.train_dataset, trainer.data_collator)
        flops, own = training_flops_of(config, whole.tokens, whole.pairs), steps * step_flops(trainer.trained())
        total, embedding = sum(parameters(config).values()), embedding_parameters(config)
        processes = "1 process" if hardware["processes"] == 1 else f"{hardware['processes']} processes"
        so_far = "" if info["train"].finished else " so far, more during training"
        origin = f", started from {start}" if start else ""
        at_most = "" if whole.is_exact else "at most "
        about = at_most or ("" if whole.targets % steps == 0 else "about ")
        return [
            f"data        {experiment.data.origin}: {prepared.documents('train')}, "
            f"{format_count(tokens, 'token')}{so_far}",
            f"validation  {prepared.documents('validation')}, {format_count(info['validation'].tokens, 'token')}"
            f"{_overlap(prepared)}",
            *self._skipped_line(),
            f"tokenizer   {prepared.describe_tokenizer()}",
            f"model       {config.model_type}, {total:,} parameters ({embedding:,} embedding, "
            f"{total - embedding:,} other){origin}",
            f"batch       {format_count(batch, 'example')}{share(trainer.args)}, of up to {self.data.length} tokens, "
            f"{about}{format_count(round(whole.targets / steps), 'target')} per step",
            f"training    {format_count(steps, 'step')}, {at_most}{format_count(whole.targets, 'target')}, "
            f"{flops:.4g} FLOPs" + (f", and {own:.4g} of Muon" if own else ""),
            f"device      {hardware['device']}, {hardware['precision']}, {processes}, "
            f"peak {hardware['peak_flops']:.3g} FLOP/s ({hardware['peak_origin']})",
            memory_line(trainer.args, trainer.trained(), self.data.length, **recipe_memory(experiment)),
            *(f"derived     {one}" for one in describe(experiment.derived)),
            f"run folder  {self.run.folder}",
            *unused_devices(trainer.args),
            *_drawn_apart(trainer.args, config),
        ]

    def progress(self) -> Progress:
        """The progress bar."""
        return Progress(self.data.floor, self.samples)

    def callbacks(self) -> list[TrainerCallback]:
        """All callbacks that write into the run folder, the card last."""
        return [MetricsFile(self.run.folder), Curves(self.run.folder, self.data.floor), self.samples, self]

    def _skipped_line(self) -> list[str]:
        """The line on skipped records, if there are any; the card has it in any case."""
        prepared = self.data.prepared
        if not any(prepared.info[split].skipped_records for split in ("train", "validation")):
            return []
        return [f"skipped     {_skipped(prepared.info)}{_malformed_record_files(prepared.folder)}"]

    @tolerate_full_disk
    def on_save(self, args, state, control, model=None, **kwargs):  # noqa: ARG002
        if state.is_world_process_zero:
            self.write_card(args, model.config, self.metrics(state))

    def finish(self, trainer: Trainer):
        """Save and evaluate the final model, write card and metrics, and print the conclusion."""
        with exit_on_disk_error():
            trainer.save_model()
        state = trainer.state
        if trainer.args.load_best_model_at_end or not any(
            row.get("step") == state.global_step and "eval_loss" in row for row in state.log_history
        ):
            trainer.evaluate()
        if trainer.args.should_save:
            metrics = self.final_metrics(trainer)
            with exit_on_disk_error():
                self.write_card(trainer.args, trainer.model.config, metrics)
                write_json(self.run.folder / "metrics.json", metrics)  # last: it marks the run as finished
            print("\n".join(conclusion(self.run.folder, metrics, self.samples)))
        trainer.accelerator.end_training()  # disconnects the processes; NCCL warns otherwise

    def final_metrics(self, trainer: Trainer) -> dict:
        """The metrics of the weights that the run comes to, of which a sample is drawn, too."""
        averages, metrics = trainer.averages, self.metrics(trainer.state)
        if averages.result == "raw":
            return metrics
        with averages.swapped(averages.result):
            self.samples.last = self.samples.draw(trainer.model) or self.samples.last
        return of_saved_weights(metrics, averages.result) | {"weights": averages.result}

    def metrics(self, state: TrainerState) -> dict:
        """The run's metrics so far, including those of the last evaluation, if there was one."""
        last = next((row for row in reversed(state.log_history) if "eval_loss" in row), {})
        groups, validation = self.data.prepared.compared_groups, self.data.prepared.info["validation"]
        metrics = {key: last[key] for key in last if key.startswith("eval_") and key not in SPEEDS}
        if last and last["step"] != state.global_step:
            metrics["evaluated_step"] = last["step"]
        documents = {f"validation_documents/{name}": about["documents"] for name, about in groups.items()}
        budget = {f"budget_{name}": amount for name, amount in self.run.experiment.budget.amounts.items()}
        return metrics | {
            **budget,
            "floor_loss": self.data.floor and self.data.floor.loss,
            "floor_bits_per_byte": self.data.floor and self.data.floor.bits_per_byte,
            "steps": state.global_step,
            "max_steps": state.max_steps,
            "epochs": state.epoch,
            "tokens": state.num_input_tokens_seen,
            "train_tokens": self.data.train_set.tokens_per_pass,
            "validation_documents": validation.documents,
            **documents,
            "total_flos": state.total_flos,
            "optimizer_flops": last_logged(state.log_history, "optimizer_flops"),
            "seconds": last_logged(state.log_history, "seconds"),
            "vocabulary": len(self.data.prepared.tokenizer),
            **({"checkpoints": kept} if (kept := saved_by_tokens(state)) else {}),
        }

    def write_card(self, args: TrainingArguments, config: KindlingConfig, metrics: dict):
        """The run folder's README.md."""
        experiment, prepared, sample = self.run.experiment, self.data.prepared, self.samples.last
        prompt, temperature = experiment.sample.prompt, experiment.sample.temperature
        after = f", after the prompt {prompt!r}" if prompt else ""
        quoted = sample.replace("\n", "\n> ")
        named = {"loss": "eval_loss", "perplexity": "eval_perplexity", "bits_per_byte": "eval_bits_per_byte"}
        spending = describe_spending(metrics)
        training = {
            "data": f"`{experiment.data.origin}`, {prepared.documents('train')}{_overlap(prepared)}",
            "skipped": _skipped(prepared.info),
            "tokenizer": f"{experiment.tokenizer.kind}, {prepared.describe_tokenizer()}",
            "tokens": f"{metrics['tokens']:,} ({passes(experiment.data.streaming, metrics)})",
            **({"budget": spending} if spending else {}),
            "steps": f"{metrics['steps']:,} of {args.max_steps:,}, {batch_size(args):,} examples each",
            "training FLOPs": describe_flops(metrics),
            "time": f"{metrics['seconds'] / 60:.1f} minutes, evaluations included",
            "optimiser": describe_optimizer(args, experiment.optimizer),
            **describe_recipe(experiment.optimizer, experiment.schedules, experiment.loss.z_loss),
            **describe_averaging(experiment.averaging, metrics.get("weights", "raw")),
            "seed": str(args.seed),
            **kept_checkpoints(self.run.folder, metrics.get("checkpoints", {})),
        }
        facts = Facts(
            name=experiment.name,
            source=f"`{experiment.data.origin}`",
            prompt=prompt,
            do_sample=True,
            sample=f"A sample, temperature {temperature}{after}:\n\n> {quoted}" if sample else "",
            results=result_rows(metrics),
            training=training,
            measured={name: metrics[key] for name, key in named.items() if key in metrics},
            split="validation",
            groups=group_rows(metrics),
            start=experiment.model.get("path"),
            **prepared.origins(),
        )
        write_card(self.run.folder, config, read_provenance(self.run.folder), experiment.card, facts)


def _overlap(prepared) -> str:
    """The number of documents in both splits, as text; empty if there are none."""
    return f"; {prepared.overlap()}" if prepared.info["train"].in_validation_too else ""


def _skipped(info: dict) -> str:
    """The number of skipped records in each split, with the reasons."""
    return f"training {info['train'].skipped()}, validation {info['validation'].skipped()}"


def _drawn_apart(args: TrainingArguments, config: KindlingConfig) -> list[str]:
    what = per_process_randomness(args, config.attention_dropout) if args.world_size > 1 else None
    return [f"random      {what}"] if what else []


def _malformed_record_files(folder: Path) -> str:
    """The files with malformed records, if there are any."""
    files = [path for path in sorted(folder.glob("*/quarantine.jsonl")) if path.stat().st_size]
    return f": {', '.join(map(str, files))}" if files else ""

"""The Trainer of a run on text, with its callbacks."""

from transformers import PreTrainedModel, TrainerCallback

from .checkpoints.data_position import DataPosition
from .checkpoints.token_checkpoints import TokenCheckpoints
from .reporting.callbacks import show_progress
from .reporting.report import Report
from .run import Run
from .run_data import RunData
from .trainer import KindlingTrainer


def build_trainer(
    run: Run, data: RunData, model: PreTrainedModel, report: Report, *callbacks: TrainerCallback
) -> KindlingTrainer:
    """The Trainer of a run on text, with the callbacks of `report`."""
    trainer = KindlingTrainer(
        model=model,
        args=run.args,
        train_dataset=data.train_set,
        eval_dataset=data.validation_set,
        data_collator=data.collate,
        processing_class=data.tokenizer,
        callbacks=[DataPosition(data.train_set), run.fingerprint, *report.callbacks(), *callbacks],
        text_bytes=data.text_bytes,
        group_bytes=data.group_bytes,
        peak_flops=run.hardware["peak_flops"],
        optimizer=run.experiment.optimizer,
        averaging=run.experiment.averaging,
        z_loss=run.experiment.loss.z_loss,
        schedules=run.experiment.schedules,
        guard=run.experiment.guard,
        fit_memory=run.experiment.budget.fit_memory,
    )
    if counts := run.experiment.checkpoints.counts:
        trainer.add_callback(TokenCheckpoints(counts, trainer.checkpoints, trainer.tokens_seen))
    show_progress(trainer, report.progress())
    return trainer

"""Train a GPT or a LLaMA, from scratch or from a checkpoint: text -> tokenizer -> model -> Trainer -> checkpoint.

usage: python train_lm.py CONFIG [section.key=value ...]

    python train_lm.py configs/lm/demo.yaml
    python train_lm.py configs/lm/demo.yaml model.norm=layernorm training.learning_rate=3e-4
    python train_lm.py configs/lm/demo.yaml training.resume_from_checkpoint=true
    python train_lm.py configs/lm/continue.yaml model.path=openai-community/gpt2

The run folder (training.output_dir, by default runs/NAME) is itself the trained model: tokenizer, weights and code,
with metrics.jsonl, metrics.json, curves.png, samples.jsonl, experiment.yaml and a model card.
"""

from functools import partial
from pathlib import Path

from command_line.run import run_script
from settings.experiment import LanguageExperiment
from settings.loading import load_experiment


def main(path: str, overrides: list[str]):
    experiment = load_experiment(path, overrides)  # before the heavy imports: a typo is answered at once

    from training.run_folder import claimed

    folder = Path(experiment.training["output_dir"])
    with claimed(folder):
        train(experiment, folder)


def train(experiment: LanguageExperiment, folder: Path):
    """Run an experiment whose folder is ours."""
    from transformers.utils.logging import disable_progress_bar

    from data_prep.collator import build_collator
    from data_prep.sources.table import check_source_overrides
    from data_prep.tokenizer.preview import foreseen_tokenizer
    from data_prep.tokens.background_writer import write_on
    from data_prep.tokens.prepare import prepare
    from publishing import publisher as pushes
    from training import hardware, model, run
    from training.checkpoints import data_position, fingerprint, resume
    from training.preflight import arguments, compatibility, resources, shapes
    from training.reporting import callbacks, provenance
    from training.reporting import report as language
    from training.trainer import KindlingTrainer

    hardware.keep_freed_memory()
    check_source_overrides(experiment)
    checkpoint = resume.checkpoint_to_resume(experiment)
    arguments.keep_precision(experiment, checkpoint)
    start = shapes.check_shape(experiment, run.start_of(experiment, checkpoint))
    args = arguments.training_arguments(experiment)
    contract = fingerprint.Contract(experiment, args, checkpoint)
    compatibility.check_tokenizer(
        experiment, start, foreseen_tokenizer(experiment.data, experiment.tokenizer, experiment.sample)
    )
    args.distributed_state.wait_for_everyone()  # to see what there was before one of them writes
    prepared = prepare(experiment.data, experiment.tokenizer, args.local_process_index > 0, contract.data_before)
    config = model.model_config(experiment, prepared.tokenizer, start)
    contract.complete(config, prepared.tokenizer, prepared.identity(experiment.data))
    length = experiment.data.context_length or config.max_position_embeddings
    positions = partial(data_position.run_positions, args=args, checkpoint=checkpoint)
    train_set = prepared.order(experiment.data, length, positions)
    validation_set = prepared.examples("validation", experiment.data.layout, length)
    collate = build_collator(experiment.data, prepared.tokenizer, config)
    compatibility.check_data(experiment, args, prepared, collate, (train_set.examples, validation_set), checkpoint)
    report = language.Report(experiment, prepared, train_set, validation_set, config)
    resume.leave_if_finished(experiment, args, checkpoint)
    if experiment.data.streaming and args.local_process_index == 0:
        write_on(experiment.data, experiment.tokenizer, train_set)
    machine = hardware.describe_hardware(args)
    disable_progress_bar()  # of each file that is written; the training's own stays
    publisher = pushes.Publisher(args, folder)
    trainer = KindlingTrainer(
        model=model.build_model(config, args, start),
        args=args,
        train_dataset=train_set,
        eval_dataset=validation_set,
        data_collator=collate,
        processing_class=prepared.tokenizer,
        callbacks=[data_position.DataPosition(train_set), contract, *report.callbacks(), publisher],
        text_bytes=report.text_bytes,
        group_bytes=report.group_bytes,
        peak_flops=machine["peak_flops"],
        optimizer=experiment.optimizer,
        guard=experiment.guard,
    )
    callbacks.show_progress(trainer, callbacks.Progress(report.floor, report.samples))
    if args.should_save:
        resources.refuse_full_disk(folder, args, trainer.trained(), len(train_set.examples), contract.done)
        provenance.write_provenance(provenance.resolve(experiment, args, config), folder, machine, checkpoint)
        print("\n".join(language.announcement(experiment, trainer, prepared, length, machine)))
    trainer.train(resume_from_checkpoint=checkpoint)
    report.finish(trainer)
    publisher.finish()
    trainer.checkpoints.refuse_unsaved()


if __name__ == "__main__":
    run_script(__doc__, main)

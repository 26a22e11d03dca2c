"""Train a GPT or a LLaMA from scratch: text -> tokenizer -> model -> Trainer -> checkpoint.

usage: python train_lm.py CONFIG [section.key=value ...]

    python train_lm.py configs/lm/demo.yaml
    python train_lm.py configs/lm/demo.yaml model.norm=layernorm training.learning_rate=3e-4
    python train_lm.py configs/lm/demo.yaml training.resume_from_checkpoint=true

The run folder (training.output_dir, by default runs/NAME) is itself the trained model: tokenizer, weights and code,
with metrics.jsonl, metrics.json, curves.png, samples.jsonl, experiment.yaml and a model card.
"""

from functools import partial

from config import load_experiment, run_script


def main(path: str, overrides: list[str]):
    experiment = load_experiment(path, overrides)  # before the heavy imports: a typo is answered at once

    from transformers import AutoModelForCausalLM, set_seed
    from transformers.utils.logging import disable_progress_bar

    import modeling  # noqa: F401  registers the families
    from data_prep.collator import build_collator
    from data_prep.stream import write_on
    from data_prep.tokens import prepare
    from training import language, run
    from training.attention import attention_implementation
    from training.callbacks import Curves, MetricsFile, Progress, Samples, show_progress
    from training.hardware import describe_hardware, keep_freed_memory
    from training.position import DataPosition, run_positions
    from training.trainer import KindlingTrainer

    keep_freed_memory()
    run.check_shape(experiment)
    checkpoint = run.checkpoint_to_resume(experiment)
    args = run.training_arguments(experiment)
    args.distributed_state.wait_for_everyone()  # to see what there was before one of them writes
    folder = run.folder_of(experiment)
    prepared = prepare(experiment.data, experiment.tokenizer, by_another=args.local_process_index > 0)
    config = run.model_config(experiment, prepared.tokenizer)
    settings = run.resolve(experiment, args, config)
    run.refuse_other_experiment(settings, folder, checkpoint)
    length = experiment.data.context_length or config.max_position_embeddings
    train_set = prepared.order(experiment.data, length, partial(run_positions, args=args, checkpoint=checkpoint))
    if experiment.data.streaming and args.local_process_index == 0:
        write_on(experiment.data, experiment.tokenizer, train_set)
    validation_set = prepared.examples("validation", experiment.data.layout, length)
    text_bytes, group_bytes, floor = language.what_to_compare_with(experiment, prepared, validation_set)
    hardware = describe_hardware(args)

    disable_progress_bar()  # of each file that is written; the training's own stays
    set_seed(args.seed)
    samples = Samples(folder, prepared.tokenizer, experiment.sample, config.max_position_embeddings)
    trainer = KindlingTrainer(
        model=AutoModelForCausalLM.from_config(config, attn_implementation=attention_implementation(args)),
        args=args,
        train_dataset=train_set,
        eval_dataset=validation_set,
        data_collator=build_collator(experiment.data, prepared.tokenizer),
        processing_class=prepared.tokenizer,
        callbacks=[DataPosition(train_set), MetricsFile(folder), Curves(folder, floor), samples],
        text_bytes=text_bytes,
        group_bytes=group_bytes,
        peak_flops=hardware["peak_flops"],
        optimizer=experiment.optimizer,
    )
    show_progress(trainer, Progress(floor, samples))

    if args.should_save:
        run.write_provenance(settings, folder, hardware, checkpoint)
        print("\n".join(language.announcement(experiment, trainer, prepared, length, hardware)))
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    language.finish(experiment, trainer, prepared, floor, samples.last)


if __name__ == "__main__":
    run_script(__doc__, main)

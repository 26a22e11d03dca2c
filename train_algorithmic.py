"""Train on equations such as a / b = c (mod 97), and watch generalisation come after memorisation: grokking.

usage: python train_algorithmic.py CONFIG [--write-data] [section.key=value ...]

    python train_algorithmic.py configs/algorithmic/fast.yaml
    python train_algorithmic.py configs/algorithmic/paper.yaml data.operation=add training.seed=7
    python train_algorithmic.py configs/algorithmic/fast.yaml "replicas.training.seed=[0,1,2]"

Seeds, learning rates and other scalars listed in `replicas` are trained together, as one batch of models. The run
folder (training.output_dir, by default runs/NAME) has metrics.jsonl, metrics.json, curves.png and experiment.yaml, and
is itself the trained model; with replicas, each has such a folder in there. --write-data adds the equations as files.
"""

from pathlib import Path

from command_line.run import run_script
from settings.experiment import AlgorithmicExperiment
from settings.loading import load_experiment


def main(path: str, overrides: list[str]):
    write_files = "--write-data" in overrides
    given = [text for text in overrides if text != "--write-data"]
    experiment = load_experiment(path, given, AlgorithmicExperiment)

    from training.run_folder import claimed

    folder = Path(experiment.training["output_dir"])
    with claimed(folder):
        train(experiment, folder, write_files)


def train(experiment: AlgorithmicExperiment, folder: Path, write_files: bool):
    """Run an experiment whose folder is ours; `write_files` asks for its equations as files."""
    from transformers.utils.logging import disable_progress_bar

    from data_prep.algorithmic.equations import prepare_equations, write_data
    from data_prep.collator import CausalLMCollator
    from training.checkpoints import fingerprint, resume
    from training.grokking import report
    from training.grokking.trainer import AlgorithmicTrainer, EvaluateLogSpaced, Member, StopWhenGrokked
    from training.hardware import describe_hardware, keep_freed_memory
    from training.preflight import arguments, resources
    from training.reporting import provenance
    from training.reporting.callbacks import MetricsFile, show_progress

    keep_freed_memory()
    report.refuse_unsupported(experiment)
    checkpoint = resume.checkpoint_to_resume(experiment)
    arguments.keep_precision(experiment, checkpoint)
    members = [Member.build(one, prepare_equations) for one in experiment.replicated()]
    args = arguments.training_arguments(experiment)
    contract = fingerprint.Contract(experiment, args, checkpoint)
    config = members[0].model.config
    equations = members[0].equations
    contract.complete(config, equations.tokenizer, equations.identity(experiment.data.operation))
    resume.leave_if_finished(experiment, args, checkpoint)
    hardware = describe_hardware(args)

    disable_progress_bar()  # of each file that is written; the training's own stays
    trainer = AlgorithmicTrainer(
        members,
        args=args,
        data_collator=CausalLMCollator(
            equations.tokenizer.pad_token_id,
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_position_embeddings,
        ),
        callbacks=[
            contract,
            MetricsFile(folder),
            EvaluateLogSpaced(experiment.evaluation.evals_per_decade, args.max_steps),
            *([StopWhenGrokked()] if experiment.evaluation.stop_when_grokked else []),
        ],
        peak_flops=hardware["peak_flops"],
        guard=experiment.guard,
    )
    show_progress(trainer, report.AlgorithmicProgress())

    if args.should_save:
        resources.refuse_full_disk(folder, args, trainer.trained(), len(trainer.train_dataset), contract.done)
        provenance.write_provenance(provenance.resolve(experiment, args, config), folder, hardware, checkpoint)
        if write_files:
            for member in members:
                write_data(member.equations, member.experiment.data, member.folder / "data")
        print("\n".join(report.announcement(experiment, trainer, hardware)))
    trainer.train(resume_from_checkpoint=checkpoint)
    if args.should_save:
        print("\n".join(report.keep(experiment, trainer)))
    trainer.checkpoints.refuse_unsaved()


if __name__ == "__main__":
    run_script(__doc__, main, AlgorithmicExperiment)

"""Train on equations such as a / b = c (mod 97), and watch generalisation come after memorisation: grokking.

usage: python train_algorithmic.py CONFIG [--write-data] [section.key=value ...]

    python train_algorithmic.py configs/algorithmic/fast.yaml
    python train_algorithmic.py configs/algorithmic/paper.yaml data.operation=add training.seed=7
    python train_algorithmic.py configs/algorithmic/fast.yaml "replicas.training.seed=[0,1,2]"

Seeds, learning rates and other scalars listed in `replicas` are trained together, as one batch of models. The run
folder (training.output_dir, by default runs/NAME) has metrics.jsonl, metrics.json, curves.png and experiment.yaml, and
is itself the trained model; with replicas, each has such a folder in there. --write-data adds the equations as files.
"""

from command_line.run import run_script
from settings.experiment import AlgorithmicExperiment
from settings.loading import load_experiment


def main(path: str, overrides: list[str]):
    write_files = "--write-data" in overrides
    given = [text for text in overrides if text != "--write-data"]
    experiment = load_experiment(path, given, AlgorithmicExperiment)  # before the heavy imports

    from training.run_folder import locked_run_folder

    with locked_run_folder(experiment.folder):
        train(experiment, write_files)


def train(experiment: AlgorithmicExperiment, write_files: bool):
    """The life of a run, in a folder that is its own; `write_files` asks for its equations as files."""
    from training.grokking.members import build_members
    from training.grokking.report import begin, finish
    from training.grokking.trainer import build_trainer
    from training.preflight.with_data import check_algorithmic_run
    from training.run import open_run

    run = open_run(experiment)
    members = build_members(run)
    check_algorithmic_run(run, members)
    trainer = build_trainer(run, members)
    begin(run, trainer, write_files)
    trainer.train(resume_from_checkpoint=run.checkpoint)
    finish(run, trainer)
    trainer.checkpoints.exit_if_unsaved()


if __name__ == "__main__":
    run_script(__doc__, main, AlgorithmicExperiment)

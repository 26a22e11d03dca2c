"""Train a GPT or a LLaMA, from scratch or from a checkpoint: text -> tokenizer -> model -> Trainer -> checkpoint.

usage: python train_lm.py CONFIG [section.key=value ...]

    python train_lm.py configs/lm/demo.yaml
    python train_lm.py configs/lm/demo.yaml model.norm=layernorm training.learning_rate=3e-4
    python train_lm.py configs/lm/demo.yaml training.resume_from_checkpoint=true
    python train_lm.py configs/lm/continue.yaml model.path=openai-community/gpt2

The run folder (training.output_dir, by default runs/NAME) is itself the trained model: tokenizer, weights and code,
with metrics.jsonl, metrics.json, curves.png, samples.jsonl, experiment.yaml and a model card.
"""

from command_line.run import run_script
from settings.experiment import LanguageExperiment
from settings.loading import load_experiment


def main(path: str, overrides: list[str]):
    experiment = load_experiment(path, overrides)  # before the heavy imports: a typo is answered at once

    from training.run_folder import locked_run_folder

    with locked_run_folder(experiment.folder):
        train(experiment)


def train(experiment: LanguageExperiment):
    """The life of a run, from its settings to what came out, in a folder that is its own."""
    from publishing.publisher import Publisher
    from training.model import build_model, model_config
    from training.preflight.with_data import check_language_run
    from training.reporting.report import Report
    from training.run import open_run
    from training.run_data import open_data, prepare_tokens, start_stream_writer
    from training.run_trainer import build_trainer

    run = open_run(experiment)
    prepared = prepare_tokens(run)
    config = model_config(experiment.model, prepared.tokenizer, run.start)
    data = open_data(run, prepared, config)
    report = Report(run, data, config)
    check_language_run(run, data, config)
    start_stream_writer(run, data)
    publisher = Publisher(run.args, run.folder)
    model = build_model(config, run.args, run.start)
    trainer = build_trainer(run, data, model, report, publisher)
    report.begin(trainer)
    trainer.train(resume_from_checkpoint=run.checkpoint)
    report.finish(trainer)
    publisher.finish()
    trainer.checkpoints.exit_if_unsaved()


if __name__ == "__main__":
    run_script(__doc__, main)

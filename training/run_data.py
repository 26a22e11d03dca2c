"""The data of a run on text: its examples in the order in which they are trained on, and how they become batches."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from data_prep.collator import CausalLMCollator, build_collator
from data_prep.tokens.background_writer import start_writer_process
from data_prep.tokens.order import Epochs
from data_prep.tokens.prepare import prepare
from data_prep.tokens.prepared import PreparedData
from data_prep.tokens.stream import in_order
from data_prep.tokens.windows import Documents, Windows
from modeling.configuration_kindling import KindlingConfig

from .checkpoints.data_position import run_positions
from .run import Run


@dataclass
class RunData:
    """What a run trains on and is measured on."""

    prepared: PreparedData
    length: int
    """The longest example, in tokens."""
    train_set: Epochs
    """All examples of the run, epoch after epoch."""
    validation_set: Windows | Documents
    collate: CausalLMCollator

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of its tokens."""
        return self.prepared.tokenizer


def prepare_tokens(run: Run) -> PreparedData:
    """The tokenizer and the tokens of a run, made now unless they are there; by the first process of each machine."""
    experiment, by_other_process = run.experiment, run.args.local_process_index > 0
    return prepare(experiment.data, experiment.tokenizer, by_other_process, run.fingerprint.data_before)


def open_data(run: Run, prepared: PreparedData, config: KindlingConfig) -> RunData:
    """The examples of a run, for a model of `config`; sets `run.args.max_steps` where epochs are asked for."""
    section = run.experiment.data
    length = section.context_length or config.max_position_embeddings
    examples = prepared.training_examples(section, length)
    count = None if section.streaming else len(examples)  # nobody knows yet how long a stream is
    run.args.max_steps, positions = run_positions(count, section.order_settings(length), run.args, run.checkpoint)
    return RunData(
        prepared,
        length,
        in_order(examples, **positions),
        prepared.examples("validation", section.layout, length),
        build_collator(section, prepared.tokenizer, config),
    )


def keep_preparing(run: Run, data: RunData):
    """Start the process that prepares the rest of a stream, one on each machine; nothing where there is no stream."""
    experiment = run.experiment
    if experiment.data.streaming and run.args.local_process_index == 0:
        start_writer_process(experiment.data, experiment.tokenizer, data.train_set)

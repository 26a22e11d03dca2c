"""The data of a run on text: training examples in order, validation examples, and the collator."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from data_prep.collator import CausalLMCollator, build_collator
from data_prep.tokens.background_writer import start_writer_process
from data_prep.tokens.order import Epochs
from data_prep.tokens.prepare import prepare
from data_prep.tokens.prepared import Floor, PreparedData
from data_prep.tokens.stream import in_order
from data_prep.tokens.windows import Documents, Windows
from modeling.configuration_kindling import KindlingConfig
from settings.data_sections import DataSection

from .budgets.length import budgeted_examples
from .budgets.minutes import examples_in_time
from .checkpoints.data_position import data_seed, run_positions
from .optimization.decay_branch import set_decay_steps
from .reporting.callbacks import Samples
from .run import Run


@dataclass
class RunData:
    """What a run trains on and is evaluated on."""

    prepared: PreparedData
    length: int
    """The maximum length of an example, in tokens."""
    train_set: Epochs
    """All examples of the run, epoch after epoch."""
    validation_set: Windows | Documents
    collate: CausalLMCollator
    text_bytes: int | None
    """The bytes of the validation text; None if some of it carries no loss, so that the nats cover only a part."""
    group_bytes: dict[str, int | None]
    """The same for each of its groups, in the order of their numbers."""
    floor: Floor | None
    """The loss of the validation text under its source, if that is known and all of the text carries loss."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of its tokens."""
        return self.prepared.tokenizer


def prepare_tokens(run: Run) -> PreparedData:
    """Prepare the tokenizer and the tokens of a run, unless they exist, in the first process of each machine."""
    experiment, by_other_process = run.experiment, run.args.local_process_index > 0
    return prepare(experiment.data, experiment.tokenizer, by_other_process, run.fingerprint.data_before)


def open_data(run: Run, prepared: PreparedData, config: KindlingConfig) -> RunData:
    """Open the examples of a run, for a model of `config`; sets `run.args.max_steps` if not given by the settings."""
    section = run.experiment.data
    length = section.context_length or config.max_position_embeddings
    examples = prepared.training_examples(section, length)
    count = None if section.streaming else len(examples)  # the length of a stream is unknown
    collate = build_collator(section, prepared.tokenizer, config)
    validation = prepared.examples("validation", section.layout, length)
    if run.experiment.budget.minutes is None:
        wanted = budgeted_examples(run.experiment.budget.amounts, examples, data_seed(run.args), collate, config)
    else:
        samples = Samples(run.folder, prepared.tokenizer, run.experiment.sample, config.max_position_embeddings)
        wanted = examples_in_time(run, config, examples, validation, collate, samples)
    order = section.order_settings(length)
    run.args.max_steps, positions = run_positions(count, order, run.args, run.checkpoint, wanted)
    if (trunk := run.experiment.resume.decay_from) is not None:
        set_decay_steps(run.args, run.experiment, trunk, run.fingerprint.steps_before)
    return RunData(
        prepared,
        length,
        in_order(examples, **positions),
        validation,
        collate,
        *validation_baselines(section, prepared, validation),
    )


def validation_baselines(section: DataSection, prepared: PreparedData, validation_set: Windows | Documents) -> tuple:
    """The `text_bytes`, `group_bytes` and `floor` of a run's data."""
    validation, groups = prepared.info["validation"], prepared.compared_groups
    if section.mask_first_n or section.mask_up_to or validation.prompt_tokens:
        return None, dict.fromkeys(groups), None
    group_bytes = {name: about["text_bytes"] for name, about in groups.items()}
    return validation.text_bytes, group_bytes, validation.floor(validation_set.targets)


def start_stream_writer(run: Run, data: RunData):
    """For streamed data, start the process that prepares further tokens, one per machine."""
    experiment = run.experiment
    if experiment.data.streaming and run.args.local_process_index == 0:
        start_writer_process(experiment.data, experiment.tokenizer, data.train_set)

"""The memory of training without building a model, against autograd's own storage and sums written out."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM

import training.attention  # noqa: F401  (registers attention outside of autocast)
from modeling import memory
from modeling.accounting import parameters
from modeling.layers import ATTENTION_OPTIONS
from modeling.memory import OptimizerMemory, Step, activation_memory, adamw_memory, peak_memory, step_memory

PRECISIONS = {
    "float32": ("sdpa", {}),
    "16 bits": ("sdpa", {"half": True}),
    "16 bits, attention in float32": ("sdpa_float32", {"half": True, "half_attention": False}),
}


def kept_bytes(model, ids, half):
    """Bytes of the storages that autograd keeps between forward and backward, parameters apart."""
    kept = []  # tensors, not addresses: one that is freed would lend its address to another

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=half):
        model(ids, labels=ids, use_cache=False)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    for parameter in model.parameters():
        storages.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def check_activations(model, ids, attention, precision):
    """To the byte, but for the scalar by which the loss divides."""
    model.train().set_attn_implementation(attention)
    counted = activation_memory(model.config, Step(length=ids.shape[1], batch=ids.shape[0], **precision))
    assert sum(counted.values()) == kept_bytes(model, ids, precision.get("half", False)) - 4


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_activation_memory_is_what_autograd_keeps(start, tokens, axes, layers, precision):
    counted_axes = {name: value for name, value in axes.items() if name not in ATTENTION_OPTIONS}
    check_activations(start(**counted_axes, num_hidden_layers=layers), tokens(2, 32), *PRECISIONS[precision])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["hidden_dropout", "embedding_dropout"])
def test_dropout_keeps_its_masks(configure, tokens, kind, precision):
    model = AutoModelForCausalLM.from_config(configure("kindling_gpt", num_hidden_layers=2, **{kind: 0.5}))
    check_activations(model, tokens(2, 32), *PRECISIONS[precision])


def test_activations_are_linear_in_the_batch(configure):
    one, three = (activation_memory(configure(), Step(length=16, batch=batch)) for batch in (1, 3))
    assert {part: 3 * value for part, value in one.items() if part != "positions"} == {
        part: value for part, value in three.items() if part != "positions"
    }


def totals(config, step, optimizer=None):
    phases = step_memory(config, step, optimizer or adamw_memory(config))
    return {phase: sum(parts.values()) for phase, parts in phases.items()}


def test_the_phases_of_a_step_written_out(configure):
    config = configure(tie_word_embeddings=True)
    count, logits = sum(parameters(config).values()), 4 * 3 * 16 * config.vocab_size
    step = Step(length=16, batch=3, evaluation_batch=6)
    activations = sum(activation_memory(config, step).values())
    found = totals(config, step, OptimizerMemory(state=8 * count, working=1000))
    assert found[memory.LOSS] == 12 * count + activations + 2 * logits
    assert found[memory.OPTIMIZER] == 16 * count + 1000
    assert found[memory.EVALUATION] == 12 * count + 3 * 2 * logits
    assert adamw_memory(config) == OptimizerMemory(8 * count)


def test_accumulation_keeps_gradients_beside_everything_of_a_step(configure):
    """Those of the optimiser's step are there anyway, and an evaluation comes after they are dropped."""
    config = configure(tie_word_embeddings=True)
    count = sum(parameters(config).values())
    once, several = (totals(config, Step(length=16, batch=3, accumulation=number)) for number in (1, 2))
    for phase in (memory.LOSS, memory.HEAD, memory.LAST_BLOCK):
        assert several[phase] == once[phase] + 4 * count
    for phase in (memory.OPTIMIZER, memory.EVALUATION):
        assert several[phase] == once[phase]


def test_a_checkpointed_block_keeps_its_input(configure):
    config = configure(num_hidden_layers=7)
    step = [Step(length=16, batch=3, checkpointed=blocks) for blocks in (0, 4, 7)]
    block, inputs = sum(memory.block_memory(config, step[0]).values()), 4 * 3 * 16 * config.hidden_size
    none, some, every = (totals(config, one)[memory.LOSS] for one in step)
    assert none - some == 4 * (block - inputs)
    assert none - every == 7 * (block - inputs)


def test_models_that_are_trained_together_take_as_much_as_each_alone(configure):
    config = configure()
    alone, optimizer = Step(length=16, batch=3, evaluation_batch=3), OptimizerMemory(100, 10)
    together = Step(length=16, batch=3, evaluation_batch=3, models=5)
    phase, parts = peak_memory(config, alone, optimizer)
    assert step_memory(config, together, OptimizerMemory(500, 50))[phase] == {
        part: 5 * count for part, count in parts.items()
    }


def test_an_average_of_the_weights_takes_their_memory_at_all_times(configure):
    config, optimizer = configure(), OptimizerMemory(100, 10)
    without, twice = (step_memory(config, Step(length=16, batch=3, averages=n), optimizer) for n in (0, 2))
    assert twice == {phase: parts | {"averages": 2 * parts["weights"]} for phase, parts in without.items()}


@pytest.mark.parametrize("sequences", [1, 7, 1000])
def test_the_largest_batch_is_the_last_that_fits(configure, sequences):
    config, optimizer = configure(), adamw_memory(configure())

    def peak(batch):
        return sum(peak_memory(config, Step(length=16, batch=batch), optimizer)[1].values())

    for limit, largest in ((peak(sequences), sequences), (peak(sequences) - 1, sequences - 1)):
        assert memory.largest_batch(config, Step(length=16, batch=5), optimizer, limit) == largest


def test_the_peak_as_a_function_of_the_batch(configure):
    """Of large batches, whose peak is the loss: what every sequence has, and what is there without any."""
    config = configure()
    each, rest = memory.by_batch(config, Step(length=16, batch=500), adamw_memory(config))
    (more_each, more_rest) = memory.by_batch(config, Step(length=16, batch=900), adamw_memory(config))
    assert (each, rest) == (more_each, more_rest)
    assert 500 * each + rest == sum(peak_memory(config, Step(length=16, batch=500), adamw_memory(config))[1].values())
    shared = activation_memory(config, Step(length=16, batch=1))["positions"]
    assert rest == 12 * sum(parameters(config).values()) + shared

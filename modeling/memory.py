"""Memory of training: what a step keeps for its backward pass, and its peak, counted part by part without a model.

Conventions. Weights, gradients and optimiser state are float32; with 16-bit autocast (`half`) matrix products keep
16-bit copies of their inputs and weights, and norms, residual stream and loss stay in float32. Attention is fused:
scores are not kept. A device's context, the libraries' workspaces and the allocator's rounding are not counted.

`activation_memory` is exact, to the byte, against autograd's own storage (`tests/modeling/test_memory.py`).
`step_memory` adds the working set of each phase of a step; `benchmarks/memory.py` compares its peak with what PyTorch's
allocator hands out.
"""

from bisect import bisect_left
from dataclasses import dataclass, replace

from .accounting import FLOAT32_BYTES, parameters
from .configuration_kindling import KindlingConfig
from .layers import MLPS, NORMS

HALF_BYTES = 2
MOST_SEQUENCES = 2**20
"""Limit of `largest_batch`."""
LOSS = "the loss"
HEAD = "the head"
LAST_BLOCK = "the last block"
FIRST_BLOCK = "the first block"
EMBEDDING = "the embedding"
OPTIMIZER = "the optimiser"
EVALUATION = "evaluation"


@dataclass(frozen=True)
class Step:
    """What the memory of a training step on one device depends on, beside the model's configuration."""

    length: int
    """Tokens of a sequence."""
    batch: int
    """Sequences on the device at a time."""
    accumulation: int = 1
    half: bool = False
    """16-bit autocast."""
    half_attention: bool = True
    """Whether attention is part of it; on a CPU it is kept in float32."""
    explicit_attention: bool = False
    """Whether attention has its scores in memory, as on a CPU with dropout of them; in float32."""
    checkpointed: int = 0
    """Blocks that keep only their input, and compute the rest again in the backward pass."""
    evaluation_batch: int = 0
    models: int = 1
    """Models of the same configuration that are trained together."""
    z_loss: bool = False
    averages: int = 0
    """Averages of the weights that are kept beside them."""

    @property
    def bytes(self) -> int:
        """Bytes of a number in a matrix product."""
        return HALF_BYTES if self.half else FLOAT32_BYTES

    @property
    def tokens(self) -> int:
        """Tokens on the device at a time, of one model."""
        return self.batch * self.length


@dataclass(frozen=True)
class OptimizerMemory:
    """Bytes that an optimiser keeps, and those that its step takes in addition."""

    state: int
    working: int = 0


def adamw_memory(config: KindlingConfig) -> OptimizerMemory:
    """Of AdamW on all weights: two moments; its fused step needs nothing more."""
    return OptimizerMemory(2 * weight_memory(config))


def weight_memory(config: KindlingConfig) -> int:
    """Bytes of the weights."""
    return FLOAT32_BYTES * sum(parameters(config).values())


def activation_memory(config: KindlingConfig, step: Step) -> dict[str, int]:
    """Bytes that autograd keeps between forward and backward pass of one model, by part, without checkpointing.

    Masks of attention options are left out. Each part keeps its inputs: a matrix product its left side, a norm its
    input and statistics (RMSNorm the normalised input too, but for CUDA's fused kernel in float32), attention its
    queries, keys, values, output and log-sum-exp, dropout its mask, and the loss the log-probabilities.
    """
    block, once = block_memory(config, step), ends_memory(config, step)
    return {part: config.num_hidden_layers * block.get(part, 0) + once.get(part, 0) for part in block | once}


def block_memory(config: KindlingConfig, step: Step) -> dict[str, int]:
    """The share of one block in `activation_memory`."""
    d, tokens, wide = config.hidden_size, step.tokens, step.bytes
    q, kv, heads = _query_size(config), _key_value_size(config), _heads(config)
    inputs = 2 * d * wide
    if step.half:  # each matrix product casts its input for itself
        inputs = HALF_BYTES * ((3 + _mlp_inputs(config)) * d + (0 if step.half_attention else q))
    return {
        "residual stream": tokens * (2 * _norm_bytes(config) + inputs),
        "query-key norms": tokens * FLOAT32_BYTES * (2 * (q + kv) + heads) * config.qk_norm,
        "attention": _attention_memory(config, step),
        "feedforward": tokens * config.intermediate_size * MLPS[config.mlp].saved_tensors * wide,
        "dropout": tokens * 2 * d * wide * (config.hidden_dropout > 0),
        "positions": 4 * step.length * config.head_dim * HALF_BYTES * (step.half and config.position == "rope"),
        "16-bit weights": HALF_BYTES * block_weights(config) * step.half,
    }


def _attention_memory(config: KindlingConfig, step: Step) -> int:
    """Queries, keys, values and output, and log-sum-exp; or the scores after softmax, their dropout and both."""
    q, kv, heads = _query_size(config), _key_value_size(config), config.num_attention_heads
    if step.explicit_attention:  # keys and values are repeated for each head
        inputs = 3 * q if step.half else 4 * q
        return FLOAT32_BYTES * step.tokens * (inputs + 3 * heads * step.length)
    kept = (2 * q + 2 * kv) * (step.bytes if step.half_attention else FLOAT32_BYTES)
    return step.tokens * (kept + heads * FLOAT32_BYTES)


def ends_memory(config: KindlingConfig, step: Step) -> dict[str, int]:
    """The share of embedding, head and loss in `activation_memory`."""
    d, tokens = config.hidden_size, step.tokens
    # Shared by the batch: cosines and sines, or int64 ids.
    positions = {"rope": 0 if step.half else 2 * step.length * config.head_dim, "learned": 2 * step.length, "none": 0}
    return {
        "residual stream": tokens * (d * step.bytes + _norm_bytes(config) * (config.norm_placement == "pre")),
        "positions": FLOAT32_BYTES * positions[config.position],
        "dropout": tokens * d * FLOAT32_BYTES * (config.embedding_dropout > 0),
        "head": logits_memory(config, step),
        "soft-cap": softcap_memory(config, step),
        "ids": tokens * 4 * FLOAT32_BYTES,
        "16-bit weights": HALF_BYTES * head_weights(config) * step.half,
    }


def logits_memory(config: KindlingConfig, step: Step) -> int:
    """Bytes of one float32 tensor of the size of the logits: a probability for each token and id."""
    return FLOAT32_BYTES * step.tokens * config.vocab_size


def softcap_memory(config: KindlingConfig, step: Step) -> int:
    """Bytes of the hyperbolic tangents of a soft-cap on logits."""
    return step.bytes * step.tokens * config.vocab_size * (config.final_logit_softcapping is not None)


def _norm_bytes(config) -> int:
    """What a norm keeps per token, without its output, which is the input of a matrix product."""
    return FLOAT32_BYTES * (NORMS[config.norm].saved_floats(config.hidden_size) - config.hidden_size)


def _mlp_inputs(config) -> int:
    return 2 if MLPS[config.mlp].gated else 1


def block_weights(config: KindlingConfig) -> int:
    """Numbers in the matrices of one block."""
    d, f = config.hidden_size, config.intermediate_size
    return 2 * d * (_query_size(config) + _key_value_size(config)) + (_mlp_inputs(config) + 1) * d * f


def head_weights(config: KindlingConfig) -> int:
    """Numbers in the matrix of the head, or of the embedding."""
    return config.vocab_size * config.hidden_size


def _heads(config) -> int:
    return config.num_attention_heads + config.num_key_value_heads


def _query_size(config) -> int:
    return config.num_attention_heads * config.head_dim


def _key_value_size(config) -> int:
    return config.num_key_value_heads * config.head_dim


def step_memory(config: KindlingConfig, step: Step, optimizer: OptimizerMemory) -> dict[str, dict[str, int]]:
    """Bytes of each phase of a training step, one that is not the first, by part; the largest sum is the peak.

    Gradients exist from a weight's backward pass to the optimiser's step, with accumulation at all times. A tied head's
    gradient is complete only after the embedding's. The working set is that of a phase's largest operation.
    """
    weights = step.models * weight_memory(config)
    lasting = {"weights": weights, "optimiser state": optimizer.state}
    lasting |= {"averages": step.averages * weights} if step.averages else {}
    before = weights if step.accumulation > 1 else 0  # gradients that a backward pass adds to
    phases = {
        OPTIMIZER: {"gradients": weights, "working set": optimizer.working},
        EVALUATION: {"working set": step.models * evaluation_memory(config, step)},
    }
    for phase, parts in _backward(config, step, before > 0).items():
        phases[phase] = {part: step.models * count for part, count in parts.items()}
        phases[phase]["gradients"] += before
    return {phase: lasting | parts for phase, parts in phases.items()}


def peak_memory(config: KindlingConfig, step: Step, optimizer: OptimizerMemory) -> tuple[str, dict[str, int]]:
    """The phase of a training step with the largest memory, and its parts."""
    phases = step_memory(config, step, optimizer)
    return max(phases.items(), key=lambda phase: sum(phase[1].values()))


def largest_batch(config: KindlingConfig, step: Step, optimizer: OptimizerMemory, limit: float) -> int:
    """The largest batch of such a step, of at most `MOST_SEQUENCES`, whose peak is at most `limit` bytes; or 0."""

    def fits(batch: int) -> bool:
        return sum(peak_memory(config, replace(step, batch=batch), optimizer)[1].values()) <= limit

    return bisect_left(range(1, MOST_SEQUENCES + 1), True, key=lambda batch: not fits(batch))


def by_batch(config: KindlingConfig, step: Step, optimizer: OptimizerMemory) -> tuple[int, int]:
    """Bytes that a sequence adds to the peak of such a step, and those without any: `a` and `b` of a * batch + b."""
    phase, parts = peak_memory(config, step, optimizer)
    one_more = step_memory(config, replace(step, batch=step.batch + 1), optimizer)[phase]
    added, total = sum(one_more.values()) - sum(parts.values()), sum(parts.values())
    return added, total - added * step.batch


def _backward(config: KindlingConfig, step: Step, adds: bool) -> dict[str, dict[str, int]]:
    """Gradients, activations and working set of one model from the loss to the embedding's backward pass.

    If it `adds` to gradients, those that were there before are not counted, and each new one is short-lived.
    """
    layers, tied = config.num_hidden_layers, config.tie_word_embeddings
    logits, residual = logits_memory(config, step), FLOAT32_BYTES * step.tokens * config.hidden_size
    head, a_block = FLOAT32_BYTES * head_weights(config), FLOAT32_BYTES * block_weights(config)
    held = 0 if adds and not tied else head  # until the embedding's is there
    grown = 0 if adds else weight_memory(config)
    block, ends = sum(block_memory(config, step).values()), ends_memory(config, step)
    kept = step.checkpointed * residual + (layers - step.checkpointed) * block
    first, again = (residual + block, block) if step.checkpointed else (block, 0)
    cast = _cast_weights(config, step) if step.checkpointed else 0
    lookups, ends = ends["positions"] + ends["ids"] + ends["dropout"], sum(ends.values())
    loss = max((2 + 2 * step.z_loss) * logits, logits + logits * step.half // 2 + cast)
    inside = _block_working_set(config, step)
    before_head = kept + ends - logits - softcap_memory(config, step)
    phases = {
        LOSS: (0, kept + ends, loss),
        HEAD: (head, before_head, logits * step.bytes // FLOAT32_BYTES + residual),
        LAST_BLOCK: (held, kept + again + lookups, inside),
        FIRST_BLOCK: (held + (0 if adds else (layers - 1) * a_block), first + lookups, inside),
        EMBEDDING: (grown + head * (tied + adds), lookups, residual),
    }
    names = ("gradients", "activations", "working set")
    return {phase: dict(zip(names, parts, strict=True)) for phase, parts in phases.items()}


def _block_working_set(config: KindlingConfig, step: Step) -> int:
    """Gradients of activations inside an MLP, and of its largest matrix, before it is added to others."""
    d, f = config.hidden_size, config.intermediate_size
    matrix = d * f * (FLOAT32_BYTES + HALF_BYTES * step.half)
    return step.tokens * (_mlp_inputs(config) * f * step.bytes + 2 * d * FLOAT32_BYTES) + matrix


def _cast_weights(config: KindlingConfig, step: Step) -> int:
    """Bytes of the 16-bit weights of all blocks, which autocast keeps to the end of a forward pass."""
    return HALF_BYTES * config.num_hidden_layers * block_weights(config) * step.half


def evaluation_memory(config: KindlingConfig, step: Step) -> int:
    """Bytes of the evaluation of a batch: logits, a shifted copy and log-probabilities, or the widest part before."""
    tokens, d, f = step.evaluation_batch * step.length, config.hidden_size, config.intermediate_size
    logits = FLOAT32_BYTES * tokens * config.vocab_size
    cast = _cast_weights(config, step) + HALF_BYTES * head_weights(config) * step.half
    inside = tokens * ((1 + _mlp_inputs(config)) * f * step.bytes + 3 * d * FLOAT32_BYTES)
    return max(3 * logits, cast + max(inside, logits * step.bytes // FLOAT32_BYTES))

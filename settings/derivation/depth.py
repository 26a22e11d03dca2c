"""One number, or one name, for a whole model: `model.depth` and `model.preset` fill in what is not given.

Depth N sets the shape by nanochat's rule: N layers, 64 N wide, heads of 64. From the number P of parameters, those of
the blocks and the head, follow the run's length D and its hyper-parameters:

- D = 20 P tokens (Hoffmann et al., 2022, arXiv:2203.15556), if nothing else sets the length;
- for that length a batch of B = 327,680 (P / 108M)^(2/3) tokens and, for AdamW, a rate of 0.00235 (P / 108M)^(-1/3):
  Porian et al., 2024 (arXiv:2406.19146), the rate halved as OLMo-core's ladder does;
- for another length the batch times (D / 20 P)^0.383 (Bergsma et al., 2025, arXiv:2505.13738), and with it, or for a
  batch that is given, the rate times the square root of the batch's ratio to B;
- a weight decay of 0.1 sqrt(batch / B) (20 P / D), at most 1, with which weights are forgotten over the same part of
  the run (Wang and Aitchison, 2024, arXiv:2405.13698). These last two are nanochat's.

With muP the rate is that of the base model's depth. Muon's rate needs none of this; its default stays.
docs/budgets.md compares the rules of others, and says what was measured here.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..checks import ConfigError
from ..data_sections import DataSection, TokenizerSection
from ..horizon import HORIZONS, is_length
from .presets import PRESETS

HEAD_DIM = 64
TOKENS_PER_PARAMETER = 20
PARAMETERS, BATCH, RATE, DECAY = 108e6, 2048 * 160, 0.0047 / 2, 0.1
"""The reference: a model of so many parameters, its batch in tokens, its rate and its weight decay."""
MAX_DEPTH, MAX_DECAY, MAX_HEADS = 1000, 1.0, 10_000

DIALS = ("depth", "preset")
SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
         "intermediate_size", "mup_base_head_dim")  # fmt: skip
RUN = (
    *HORIZONS, ("budget", "batch_tokens"), ("training", "gradient_accumulation_steps"), ("training", "learning_rate"),
    ("training", "weight_decay"),
)  # fmt: skip
"""What `model.depth` sets besides the shape, as section and key."""
INPUTS = (
    ("budget", "tokens"), ("budget", "flops"), ("budget", "batch_tokens"), ("data", "context_length"),
    ("model", "max_position_embeddings"), ("model", "vocab_size"), ("tokenizer", "vocab_size"),
    ("training", "gradient_accumulation_steps"), ("training", "per_device_train_batch_size"),
)  # fmt: skip
"""Settings that the rules use, if they are given."""
Sections = Mapping[str, dict]


@dataclass(frozen=True)
class Derived:
    """A setting that follows from another: its name, its value and the rule, in words."""

    name: str
    value: object
    rule: str

    def __str__(self):
        large = not isinstance(self.value, str) and self.value >= 10_000
        return f"{self.name}={self.value:,.0f}" if large else f"{self.name}={self.value}"


def describe(derived: Iterable[Derived]) -> list[str]:
    """A line for each rule, with the settings that follow from it."""
    by_rule = {}
    for one in derived:
        by_rule.setdefault(one.rule, []).append(str(one))
    return [f"{', '.join(settings)}: {rule}" for rule, settings in by_rule.items()]


def without_replaced(sections: Sections, given: Mapping) -> dict[str, dict]:
    """The sections of a file without the settings that a depth or a preset on the command line replaces.

    `sections` already have the overrides, `given` by `section.key`; these stay.
    """
    dials = [dial for dial in DIALS if given.get(f"model.{dial}") is not None]
    if not dials:
        return dict(sections)
    replaced = {("model", key) for key in (*SHAPE, *DIALS)}
    replaced |= {("model", key) for values in PRESETS.values() for key in values} if "preset" in dials else {*RUN}
    replaced |= {("tokenizer", "vocab_size")} if "preset" in dials else set()
    return {
        section: values
        and {
            key: value for key, value in values.items() if (section, key) not in replaced or f"{section}.{key}" in given
        }
        for section, values in sections.items()
    }


def fill_in(sections: Sections) -> list[Derived]:
    """Replace `depth` or `preset` in checked sections by the settings that follow, and say which and why."""
    model = sections["model"]
    found = {dial: value for dial in DIALS if (value := model.pop(dial, None)) is not None}
    if len(found) > 1:
        raise ConfigError(
            f"model.depth={found['depth']} and model.preset={found['preset']} each set the shape of the model; "
            "leave one of them out"
        )
    open_settings = _Open(sections)
    if "preset" in found:
        _fill_preset(open_settings, found["preset"])
    if "depth" in found:
        _fill_depth(open_settings, found["depth"])
    return open_settings.derived


class _Open:
    """The settings of an experiment that are not given; each is filled in once."""

    def __init__(self, sections: Sections):
        self.sections, self.derived = sections, []

    def value(self, section: str, key: str, otherwise=None):
        return self.sections[section].get(key, otherwise)

    def fill(self, section: str, key: str, value, rule: str):
        """Set a setting, unless it is given; returns what it is in the end."""
        if key not in self.sections[section]:
            self.sections[section][key] = value
            self.derived.append(Derived(f"{section}.{key}", value, rule))
        return self.sections[section][key]


def _fill_preset(settings: _Open, name: str):
    """The vocabulary is the preset's, too, unless the section `tokenizer` says otherwise."""
    values = dict(PRESETS[name])
    if settings.value("tokenizer", "kind", "bpe") != "bpe" or "vocab_size" in settings.sections["tokenizer"]:
        del values["vocab_size"]
    else:
        settings.fill("tokenizer", "vocab_size", values["vocab_size"], f"preset {name}")
    for key, value in values.items():
        settings.fill("model", key, value, f"preset {name}")


def _fill_depth(settings: _Open, depth: int):
    if not 1 <= depth <= MAX_DEPTH:
        raise ConfigError(f"model.depth={depth} is out of range; it must be at least 1 and at most {MAX_DEPTH:,}")
    layers = settings.fill("model", "num_hidden_layers", depth, "depth")
    width = settings.fill("model", "hidden_size", HEAD_DIM * depth, f"{HEAD_DIM} x depth")
    if width < 1:
        return  # refused where every size is checked
    heads = settings.fill("model", "num_attention_heads", _heads(width), f"heads of about {HEAD_DIM}")
    is_mup = settings.value("model", "parametrization") == "mup"
    if is_mup and heads:
        settings.fill("model", "mup_base_head_dim", max(1, width // heads), "heads of one size at every width")
    base = settings.value("model", "mup_base_width") if is_mup else None
    _fill_run(settings, layers, width, base)


def _heads(width: int) -> int:
    """The number of heads, a divisor of the width, with the size nearest to `HEAD_DIM`; even, for rotary positions."""
    small = [count for count in range(1, min(math.isqrt(width), MAX_HEADS) + 1) if width % count == 0]
    divisors = sorted({*small, *(width // count for count in small)})
    even = [count for count in divisors if width // count % 2 == 0] or divisors
    return min(even, key=lambda count: abs(math.log(width / count / HEAD_DIM)))


def _fill_run(settings: _Open, layers: int, width: int, base: int | None):
    given = [layers, base, *(settings.value(*one) for one in INPUTS)]
    if any(value is not None and value < 1 for value in given):
        return  # refused where every value is checked
    vocabulary = _vocabulary(settings)
    count = _parameters(layers, width, vocabulary)
    parameters = f"{count:,} parameters (12 x layers x width^2 + {vocabulary:,} x width)"
    enough = TOKENS_PER_PARAMETER * count
    if not any(is_length(settings.value(*horizon)) for horizon in HORIZONS):
        settings.fill("budget", "tokens", float(enough), f"{TOKENS_PER_PARAMETER} per parameter, of {parameters}")
    length = _length(settings, count) or enough

    usual = BATCH * (count / PARAMETERS) ** (2 / 3)
    ratio = _fill_batch(settings, usual * (length / enough) ** 0.383) / usual
    tuned, of = count, "parameters"
    if base:
        tuned, of = _parameters(max(1, round(base / HEAD_DIM)), base, vocabulary), f"parameters of width {base}"
    rate = RATE * (tuned / PARAMETERS) ** (-1 / 3) * ratio**0.5
    rule = f"{RATE:g} x ({of} / 108M)^(-1/3) x sqrt({ratio:.3g}), the batch's ratio to the rule's at 20 per parameter"
    settings.fill("training", "learning_rate", _rounded(rate), rule)
    decay = min(DECAY * ratio**0.5 * enough / length, MAX_DECAY)
    rule = f"{DECAY} x sqrt({ratio:.3g}) x {enough / length:.3g}, the length's, at most {MAX_DECAY:g}"
    settings.fill("training", "weight_decay", _rounded(decay), rule)


def _fill_batch(settings: _Open, usual: float) -> float:
    """The tokens of a step: the power of 2 nearest to the usual number, where windows are packed, or what is given."""
    data, accumulated = settings.sections["data"], settings.value("training", "gradient_accumulation_steps", 1)
    window = data.get("context_length") or settings.value("model", "max_position_embeddings") or 1024
    is_open = settings.value("budget", "batch_tokens", "open") is not None  # null: as many as training says
    if data.get("layout", DataSection.layout) == "packed" and accumulated == 1 and is_open:
        nearest = max(2 ** round(math.log2(usual)), window)
        rule = "327,680 x (parameters / 108M)^(2/3) x (tokens / 20 per parameter)^0.383, to a power of 2"
        return settings.fill("budget", "batch_tokens", nearest, rule)
    return settings.value("training", "per_device_train_batch_size", 32) * accumulated * window


def _parameters(layers: int, width: int, vocabulary: int) -> int:
    """Those of the blocks, as both families have them, and of the head."""
    return 12 * layers * width**2 + vocabulary * width


def _vocabulary(settings: _Open) -> int:
    """The vocabulary as far as it is known without a tokenizer; 0 if it is not."""
    tokenizer = settings.sections["tokenizer"]
    learnt = tokenizer.get("vocab_size", TokenizerSection.vocab_size) if tokenizer.get("kind", "bpe") == "bpe" else 0
    return settings.value("model", "vocab_size") or learnt


def _length(settings: _Open, parameters: int) -> float | None:
    """The tokens of the run, if the budget says how many."""
    flops = settings.value("budget", "flops")
    return settings.value("budget", "tokens") or (flops and flops / (6 * parameters))


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")

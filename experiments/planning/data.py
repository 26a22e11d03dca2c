"""The data of a planned run: those that are prepared, or what stands in for them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.collator import CausalLMCollator, build_collator
from data_prep.sources.table import SOURCES, Generated
from data_prep.tokens.prepared import PreparedData
from data_prep.tokens.published import is_prepared, prepared_earlier
from data_prep.tokens.windows import Documents, TokenArray, Windows
from settings.checks import ConfigError, build
from settings.experiment import LanguageExperiment
from settings.wording import format_count
from storage.hub import check_model_path

SAMPLED_DOCUMENTS = 200
BYTES_PER_TOKEN = {"bpe": 4.0, "pretrained": 4.0, "characters": 1.0, "numbers": 2.0}
"""Bytes of text per token that an estimate assumes, by tokenizer."""
ENDLESS = 10**15
"""Tokens of data whose size is not known: no run reads all of them."""


@dataclass(frozen=True)
class PlannedData:
    """What a run is planned on."""

    vocabulary: int | None
    """Tokens of the tokenizer, if there is one."""
    examples: Windows | Documents
    validation: Windows | Documents | None
    collate: CausalLMCollator
    basis: str
    """How the number of tokens is known, in words."""
    is_known: bool = True
    """Whether it is known, or at least estimated."""
    is_exact: bool = True
    folder: Path | None = None
    """The prepared folder, if there is one."""

    @property
    def tokens(self) -> int:
        """Tokens of a pass."""
        return len(self.examples.ids)

    @property
    def disk_bytes(self) -> int | None:
        """Bytes of the prepared tokens, or of as many as are expected; None if that is unknown."""
        if self.folder is not None:
            return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        return (2 if self.vocabulary <= 2**16 else 4) * self.tokens if self.is_known else None


def model_config(experiment: LanguageExperiment, vocabulary: int | None = None):
    """The model's configuration, as far as it is known before there is a tokenizer of `vocabulary` tokens."""
    from modeling.configuration_kindling import FAMILIES
    from modeling.conversion import read_config

    values = {key: value for key, value in experiment.model.items() if value is not None}
    if "path" in values:
        build(check_model_path, "model.path", {"path": values["path"]})
        return build(read_config, "model.path", {"source": values.pop("path"), **values})
    family = FAMILIES[values.pop("type")]
    kind = experiment.tokenizer.kind
    vocabulary = experiment.tokenizer.vocab_size if vocabulary is None and kind == "bpe" else vocabulary
    if vocabulary is not None:
        check_vocabulary_size(values.setdefault("vocab_size", vocabulary), vocabulary)
    elif "vocab_size" not in values:
        raise ConfigError(f"tokenizer.kind={kind} has no known size before it is trained; give model.vocab_size")
    return build(family, "model", values)


def check_vocabulary_size(rows: int, tokens: int):
    """`ConfigError` if the embedding has fewer rows than the tokenizer will have tokens."""
    if rows < tokens:
        raise ConfigError(f"model.vocab_size={rows} is smaller than the tokenizer's {tokens}; leave it out")


def prepared_data(experiment: LanguageExperiment) -> PreparedData | None:
    """The tokens of an experiment, if they are prepared on this machine; no source is read, no network is used."""
    data, given = experiment.data, Path(experiment.data.source).expanduser()
    folder = given if data.mixture is None and is_prepared(given) else prepared_earlier(data, experiment.tokenizer)
    return PreparedData(folder) if folder is not None and is_prepared(folder) else None


def planned_data(experiment: LanguageExperiment, prepared: PreparedData | None, config, length: int) -> PlannedData:
    """The data of a run on sequences of `length` tokens, for a model of `config`."""
    section = experiment.data
    if prepared is not None:
        return PlannedData(
            len(prepared.tokenizer),
            prepared.examples("train", section.layout, length),
            prepared.examples("validation", section.layout, length),
            build_collator(section, prepared.tokenizer, config),
            f"prepared in {prepared.folder}",
            folder=prepared.folder,
        )
    collate = CausalLMCollator(0, section.mask_first_n)
    source = None if section.mixture else SOURCES.get(section.source)
    if not isinstance(source, Generated):
        unknown = Windows(TokenArray([Path()], [ENDLESS]), length)
        basis = "unknown until it is prepared (`python -m data_prep.tokens CONFIG`)"
        return PlannedData(config.vocab_size, unknown, None, collate, basis, is_known=False, is_exact=False)
    documents, each = section.train_documents or source.default_documents, BYTES_PER_TOKEN[experiment.tokenizer.kind]
    mean = _mean_bytes(source, section.seed, min(documents, SAMPLED_DOCUMENTS)) / each
    basis = f"estimated: {format_count(documents, 'document')} of about {mean:,.0f} tokens, {each:g} bytes each"
    examples = _stand_in(section.layout, documents, mean, length)
    return PlannedData(config.vocab_size, examples, None, collate, basis, is_exact=False)


def _mean_bytes(source: Generated, seed, count: int) -> float:
    return np.mean([len(source.document(str(seed), index).encode()) for index in range(count)])


def _stand_in(layout: str, documents: int, mean: float, length: int) -> Windows | Documents:
    """Examples of so many documents, all of the same size, whose ids are never read."""
    each = max(2, round(mean) + 1) if layout == "packed" else min(max(2, round(mean) + 1), length - 1)
    tokens = documents * each + 1
    ids = TokenArray([np.zeros(tokens, np.uint8)], [tokens])
    if layout == "packed":
        return Windows(ids, length)
    about = np.zeros(documents, dtype=[("start", np.int64), ("prompt", np.int64), ("group", np.int64)])
    about["start"] = np.arange(documents) * each
    return Documents(ids, about, length)

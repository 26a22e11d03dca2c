"""Weights in: from safetensors alone, from where they are said to be, and every one of them accounted for."""

import json
from pathlib import Path, PureWindowsPath

from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

ADAPTER = "adapter_model.safetensors"
SAFE = ("use_safetensors", "weights_only")
PLACE = ("cache_dir", "local_files_only", "proxies", "revision", "subfolder", "token")


class KindlingLoadingMixin:
    """transformers' loading, where what it would unpickle, or only warn of, is an error."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *arguments, **given):
        """As transformers', and a `ValueError` for pickled weights and for an index that points out of its folder, both
        before any weight is read, and for weights that the checkpoint lacks or the model has no place for.

        Whoever asks for `output_loading_info` is told of those instead, and decides.
        """
        for name in SAFE:
            if given.get(name) not in (None, True):
                raise ValueError(f"{name}={given[name]} would read pickles, which can run code; leave it out")
            given[name] = True
        if pretrained_model_name_or_path is not None and given.get("gguf_file") is None:
            refuse_unsafe_files(pretrained_model_name_or_path, **given)
        told = given.pop("output_loading_info", False)
        model, report = super().from_pretrained(
            pretrained_model_name_or_path, *arguments, output_loading_info=True, **given
        )
        if told:
            return model, report
        _refuse_incomplete(report["missing_keys"] | report["unexpected_keys"])
        return model


def load_causal_lm(source: str, **settings) -> PreTrainedModel:
    """A causal language model of any family from a folder or the Hub, by the same rules; no code of its own is run."""
    refuse_unsafe_files(source)
    # Without an explicit False, transformers asks on stdin whether to run the code of a family that is not ours.
    settings |= {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
    model, report = AutoModelForCausalLM.from_pretrained(source, ignore_mismatched_sizes=True, **settings)
    misshapen = {name for name, *_ in report["mismatched_keys"]}
    _refuse_incomplete(report["missing_keys"] | report["unexpected_keys"] | misshapen)
    return model


def _refuse_incomplete(wrong: set[str]):
    if wrong:
        raise ValueError(
            f"{len(wrong)} weights, such as {min(wrong)}, are not as its config.json says; mend either, or load it "
            "with output_loading_info=True, which tells of all"
        )


def refuse_unsafe_files(source, variant: str | None = None, **given):
    """`ValueError` unless a checkpoint, a folder or a Hub id, has its weights in safetensors, and in its own folder.

    No weight is read. `given` is what `from_pretrained` is given; of that, what says where the files are.
    """
    place = {name: given[name] for name in PLACE if name in given}

    def find(name):
        return cached_file(source, name, _raise_exceptions_for_missing_entries=False, **place)

    config = find(CONFIG_NAME)
    names = _names_of_weights(config, variant)
    found = next(filter(None, map(find, names)), None)
    # Many processes together write others, which begin with `shard-`.
    written = found or any(Path(source, given.get("subfolder") or "").glob("shard-*.safetensors"))
    if not written and config is None and not Path(source).is_dir():  # offline, the Hub has what the cache has
        raise ValueError(f"there is no folder {source}, and no checkpoint of that name can be had from the Hub")
    if not written or not names[0].removesuffix(".index.json").endswith(".safetensors"):
        raise ValueError(
            f"{source} has no {SAFE_WEIGHTS_NAME}, and pickled weights are not read; load them where you trust them, "
            "and save them with save_pretrained"
        )
    if found and found.endswith(".json"):
        _refuse_outside(set(_read(found).get("weight_map", {}).values()), Path(found).name)


def _names_of_weights(config: str | None, variant: str | None) -> list[str]:
    """What transformers looks for: the name that the configuration gives, or else its own, an adapter's among them."""
    if config and (named := _read(config).get("transformers_weights")):
        _refuse_outside({named}, CONFIG_NAME)
        return [named]
    own = [SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME]
    if variant is not None:
        own = [f"{stem}.{variant}.{suffix}" for stem, _, suffix in (name.rpartition(".") for name in own)]
    return [*own, ADAPTER]


def _refuse_outside(files: set[str], where: str):
    """`ValueError` if a file that `where` names is not below its folder."""
    for file in files:
        path = PureWindowsPath(file)  # which knows the separators and roots of all systems
        if path.anchor or ".." in path.parts:
            raise ValueError(f"{where} looks for weights in {file}, outside its folder; get the checkpoint anew")


def _read(path: str) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))

"""Loading of weights: only from safetensors, only from the checkpoint's own folder, and none missing or unexpected."""

import json
from pathlib import Path, PureWindowsPath

from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

ADAPTER = "adapter_model.safetensors"
SAFE_SETTINGS = ("use_safetensors", "weights_only")
LOCATION_SETTINGS = ("cache_dir", "local_files_only", "proxies", "revision", "subfolder", "token")


class KindlingLoadingMixin:
    """transformers' loading, with errors instead of unpickling and of warnings about missing weights."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *arguments, **given):
        """As transformers', and a `ValueError` for pickled weights and for an index that points out of its folder, both
        before any weight is read, and for weights that the checkpoint lacks or the model has no place for.

        With `output_loading_info` those are returned instead.
        """
        for name in SAFE_SETTINGS:
            if given.get(name) not in (None, True):
                raise ValueError(f"{name}={given[name]} would read pickles, which can run code; leave it out")
            given[name] = True
        if pretrained_model_name_or_path is not None and given.get("gguf_file") is None:
            require_safe_files(pretrained_model_name_or_path, **given)
        told = given.pop("output_loading_info", False)
        model, report = super().from_pretrained(
            pretrained_model_name_or_path, *arguments, output_loading_info=True, **given
        )
        if told:
            return model, report
        _require_all_weights(report["missing_keys"] | report["unexpected_keys"])
        return model


def load_causal_lm(source: str, **settings) -> PreTrainedModel:
    """A causal language model of any family from a folder or the Hub, by the same rules; no code of its own is run."""
    require_safe_files(source)
    # Without an explicit False, transformers asks on stdin whether to run the code of a family that is not ours.
    settings |= {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
    model, report = AutoModelForCausalLM.from_pretrained(source, ignore_mismatched_sizes=True, **settings)
    misshapen = {name for name, *_ in report["mismatched_keys"]}
    _require_all_weights(report["missing_keys"] | report["unexpected_keys"] | misshapen)
    return model


def _require_all_weights(wrong: set[str]):
    if wrong:
        raise ValueError(
            f"{len(wrong)} weights, such as {min(wrong)}, do not match its config.json; correct either, or load it "
            "with output_loading_info=True, which lists all"
        )


def require_safe_files(source, variant: str | None = None, **given):
    """`ValueError` unless a checkpoint, a folder or a Hub id, has its weights in safetensors, and in its own folder.

    No weight is read. `given` is what `from_pretrained` is given; of that, what says where the files are.
    """
    place = {name: given[name] for name in LOCATION_SETTINGS if name in given}

    def find(name):
        return cached_file(source, name, _raise_exceptions_for_missing_entries=False, **place)

    config = find(CONFIG_NAME)
    names = _names_of_weights(config, variant)
    found = next(filter(None, map(find, names)), None)
    # Several processes together write files that begin with `shard-`.
    written = found or any(Path(source, given.get("subfolder") or "").glob("shard-*.safetensors"))
    if not written and config is None and not Path(source).is_dir():  # offline, only the cache is available
        raise ValueError(f"there is no folder {source}, and no checkpoint of that name can be had from the Hub")
    if not written or not names[0].removesuffix(".index.json").endswith(".safetensors"):
        raise ValueError(
            f"{source} has no {SAFE_WEIGHTS_NAME}, and pickled weights are not read; load them where you trust them, "
            "and save them with save_pretrained"
        )
    if found and found.endswith(".json"):
        _require_inside_folder(set(_read(found).get("weight_map", {}).values()), Path(found).name)


def _names_of_weights(config: str | None, variant: str | None) -> list[str]:
    """The file names that transformers looks for: the one in the configuration, or its defaults and an adapter's."""
    if config and (named := _read(config).get("transformers_weights")):
        _require_inside_folder({named}, CONFIG_NAME)
        return [named]
    own = [SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME]
    if variant is not None:
        own = [f"{stem}.{variant}.{suffix}" for stem, _, suffix in (name.rpartition(".") for name in own)]
    return [*own, ADAPTER]


def _require_inside_folder(files: set[str], where: str):
    """`ValueError` if a file that `where` names is not below its folder."""
    for file in files:
        path = PureWindowsPath(file)  # which parses separators and roots of all systems
        if path.anchor or ".." in path.parts:
            raise ValueError(f"{where} looks for weights in {file}, outside its folder; download the checkpoint again")


def _read(path: str) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))

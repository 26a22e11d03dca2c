"""Training state in one file without pickles: tensors as safetensors, everything else as JSON in the header."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import TrainerState


def read_state_of(checkpoint: str) -> TrainerState:
    """The `TrainerState` in a checkpoint."""
    return TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))


def write_state(path: Path, state):
    """Write tensors, numbers, texts and None, in dicts, lists and tuples of any depth; `TypeError` for anything else.

    `read_state` returns the same types and bit-identical values, with tensors on the CPU.
    """
    tensors = {}
    tree = json.dumps(_encode(state, tensors))
    save_file(tensors, path, metadata={"state": tree})


def read_state(path: Path):
    """Read what `write_state` has written."""
    with safe_open(path, framework="pt") as file:
        # A copy: tensors of safetensors are the file itself, mapped into memory.
        return _decode(json.loads(file.metadata()["state"]), lambda name: file.get_tensor(name).clone())


def _encode(value, tensors: dict[str, torch.Tensor]):
    """JSON in which each dict is {type: content}, so that keys may be numbers; tensors are added to `tensors`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensor = value.detach().cpu().contiguous()
        is_part = tensor.untyped_storage().nbytes() > tensor.nbytes  # of memory that safetensors would write whole
        tensors[name] = tensor.clone() if is_part else tensor
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_encode(part, tensors) for part in pair] for pair in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_encode(one, tensors) for one in value]}
    raise TypeError(f"a {type(value).__name__} of the training state cannot be saved without a pickle")


def _decode(value, tensor: Callable):
    if isinstance(value, list):
        return [_decode(one, tensor) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    make = {"tensor": tensor, "dict": dict, "list": list, "tuple": tuple}[kind]
    return make(_decode(content, tensor))

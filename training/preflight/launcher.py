"""What a launcher asks for beside the experiment, in variables that its libraries read: followed, refused or told.

`accelerate launch` writes its configuration file and its flags into the environment of each process. What makes a run
is in its experiment; how many processes there are, on which devices, is the launcher's.
"""

import os
from collections.abc import Mapping

from transformers import TrainingArguments

from settings.checks import ConfigError
from settings.experiment import Experiment

UNSUPPORTED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
SIZES = {
    "PARALLELISM_CONFIG_TP_SIZE": "tensor parallelism",
    "PARALLELISM_CONFIG_CP_SIZE": "context parallelism",
    "PARALLELISM_CONFIG_SP_SIZE": "sequence parallelism",
    "PARALLELISM_CONFIG_DP_SHARD_SIZE": "sharded data parallelism",
}
OF_THE_EXPERIMENT = {
    "ACCELERATE_MIXED_PRECISION": ("mixed_precision", "no", "training.bf16 and training.fp16"),
    "ACCELERATE_DYNAMO_BACKEND": ("dynamo_backend", "NO", "training.torch_compile and training.torch_compile_backend"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
        "gradient_accumulation_steps", "1", "training.gradient_accumulation_steps",
    ),
    "ACCELERATE_GRADIENT_CLIPPING": ("gradient_clipping", "none", "training.max_grad_norm"),
}  # fmt: skip
"""Variables of what the experiment alone says: the launcher's name for it, the value of none, where it is said."""


def _asks(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on", "y", "t")


def wants_cpu() -> bool:
    """Whether the launcher keeps its processes off the GPUs."""
    return _asks("ACCELERATE_USE_CPU")


def check_launcher(values: Mapping, experiment: Experiment):
    """`ConfigError` if the launcher asks for what a run cannot do, or what accelerate would not do and not say so.

    `values` are those of the `training` section, `use_cpu` among them.
    """
    for name, what in UNSUPPORTED.items():
        if _asks(name):
            raise ConfigError(f"{_launcher(what)}, which is not supported; {_instead()}")
    for name, what in SIZES.items() if _asks("ACCELERATE_USE_PARALLELISM_CONFIG") else ():
        if (size := os.environ.get(name, "1")) not in ("", "1"):
            raise ConfigError(f"{_launcher(f'{what} over {size} processes')}, which is not supported; {_instead()}")
    if wants_cpu() and not values["use_cpu"]:
        raise ConfigError("the launcher asks for the CPU and training.use_cpu=False for a GPU; leave out one of them")
    _check_fsdp(values, experiment)


def _launcher(what: str) -> str:
    return f"the launcher's configuration asks for {what}"


def _instead() -> str:
    return "give --config_file configs/accelerate/multi_gpu.yaml, or cpu.yaml"


def _check_fsdp(values: Mapping, experiment: Experiment):
    """On a CPU, or in one process, accelerate would train without it, and say nothing."""
    given = values.get("fsdp")
    if values.get("fsdp_config") and not given:
        raise ConfigError(
            f"training.fsdp_config={values['fsdp_config']} has no effect without training.fsdp; leave it out"
        )
    if not given and not _asks("ACCELERATE_USE_FSDP"):
        return
    asked = f"training.fsdp={given}" if given else "FSDP, which the launcher's configuration asks for,"
    instead = "leave it out" if given else _instead()
    if values["use_cpu"] or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        raise ConfigError(f"{asked} needs several GPUs and a process for each; {instead}")
    if not experiment.optimizer.is_stock:
        raise ConfigError(
            f"{asked} cuts the matrices that optimizer.kind={experiment.optimizer.kind} and "
            f"optimizer.grokfast_lambda={experiment.optimizer.grokfast_lambda} need whole; {instead}"
        )


def take_from_launcher() -> dict[str, str]:
    """Take the variables of what the experiment says away from the libraries; return those that asked for something."""
    found = {name: os.environ[name] for name in OF_THE_EXPERIMENT if name in os.environ}
    for name in found:
        os.environ[name] = OF_THE_EXPERIMENT[name][1]
    others = [name for name in os.environ if name.startswith("ACCELERATE_DYNAMO_") and name not in OF_THE_EXPERIMENT]
    for name in (*others, "ACCELERATE_GRADIENT_CLIPPING", "ACCELERATE_USE_PARALLELISM_CONFIG"):
        os.environ.pop(name, None)
    return {name: value for name, value in found.items() if value.lower() != OF_THE_EXPERIMENT[name][1].lower()}


def tell_what_was_not_taken(asked: Mapping[str, str], args: TrainingArguments):
    """A line for each variable that asked for something else than the run does; by the first process."""
    has = {
        "ACCELERATE_MIXED_PRECISION": args.mixed_precision,
        "ACCELERATE_DYNAMO_BACKEND": args.torch_compile_backend if args.torch_compile else "no",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": args.gradient_accumulation_steps,
        "ACCELERATE_GRADIENT_CLIPPING": args.max_grad_norm,
    }
    for name, value in asked.items() if int(os.environ.get("RANK", 0)) == 0 else ():
        word, _, where = OF_THE_EXPERIMENT[name]
        if value.lower() != str(has[name]).lower():
            print(f"launcher    {word}={value} has no effect: the experiment decides ({where}), and says {has[name]}")

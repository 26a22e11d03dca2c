"""Launcher settings in environment variables: each is followed, rejected, or reported as ignored.

`accelerate launch` passes its configuration and flags in the environment of each process. The experiment decides all
settings of a run; the launcher decides the number of processes and their devices.
"""

import os
from collections.abc import Mapping

from transformers import TrainingArguments

from settings.checks import ConfigError
from settings.sections import OptimizerSection

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
EXPERIMENT_VARIABLES = {
    "ACCELERATE_MIXED_PRECISION": ("mixed_precision", "no", "training.bf16 and training.fp16"),
    "ACCELERATE_DYNAMO_BACKEND": ("dynamo_backend", "NO", "training.torch_compile and training.torch_compile_backend"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
        "gradient_accumulation_steps", "1", "training.gradient_accumulation_steps",
    ),
    "ACCELERATE_GRADIENT_CLIPPING": ("gradient_clipping", "none", "training.max_grad_norm"),
}  # fmt: skip
"""Variables that the experiment decides: the launcher's name, the neutral value, and the settings that decide."""


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on", "y", "t")


def wants_cpu() -> bool:
    """Whether the launcher asks for the CPU."""
    return _is_set("ACCELERATE_USE_CPU")


def check_launcher(
    values: Mapping, optimizer: OptimizerSection, averages: Mapping[str, float], fit_memory: bool = False
):
    """`ConfigError` if the launcher asks for something unsupported, or something that accelerate would silently ignore.

    `values` are those of the `training` section, `use_cpu` among them; `averages` of the weights are kept.
    """
    for name, what in UNSUPPORTED.items():
        if _is_set(name):
            raise ConfigError(f"{_launcher(what)}, which is not supported; {_instead()}")
    for name, what in SIZES.items() if _is_set("ACCELERATE_USE_PARALLELISM_CONFIG") else ():
        if (size := os.environ.get(name, "1")) not in ("", "1"):
            raise ConfigError(f"{_launcher(f'{what} over {size} processes')}, which is not supported; {_instead()}")
    if wants_cpu() and not values["use_cpu"]:
        raise ConfigError("the launcher asks for the CPU and training.use_cpu=False for a GPU; leave out one of them")
    _check_fsdp(values, optimizer, averages, fit_memory)


def _launcher(what: str) -> str:
    return f"the launcher's configuration asks for {what}"


def _instead() -> str:
    return "give --config_file configs/accelerate/multi_gpu.yaml, or cpu.yaml"


def _check_fsdp(values: Mapping, optimizer: OptimizerSection, averages: Mapping[str, float], fit_memory: bool):
    """On a CPU, or in one process, accelerate would silently train without FSDP."""
    given = values.get("fsdp")
    if values.get("fsdp_config") and not given:
        raise ConfigError(
            f"training.fsdp_config={values['fsdp_config']} has no effect without training.fsdp; leave it out"
        )
    if not given and not _is_set("ACCELERATE_USE_FSDP"):
        return
    asked = f"training.fsdp={given}" if given else "FSDP, which the launcher's configuration asks for,"
    instead = "leave it out" if given else _instead()
    if values["use_cpu"] or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        raise ConfigError(f"{asked} needs several GPUs and a process for each; {instead}")
    if fit_memory:
        raise ConfigError(
            f"{asked} does not work with budget.fit_memory=true: a process that computes a batch again would leave the "
            f"others waiting; leave that out, or {instead}"
        )
    if not optimizer.is_stock:
        raise ConfigError(
            f"{asked} splits the matrices that optimizer.kind={optimizer.kind} and "
            f"optimizer.grokfast_lambda={optimizer.grokfast_lambda} need whole; {instead}"
        )
    for name, fraction in averages.items():
        raise ConfigError(f"{asked} splits the weights that averaging.{name}={fraction} needs whole; {instead}")


def clear_launcher_variables() -> dict[str, str]:
    """Neutralise the variables that the experiment decides; return those that asked for something else."""
    found = {name: os.environ[name] for name in EXPERIMENT_VARIABLES if name in os.environ}
    for name in found:
        os.environ[name] = EXPERIMENT_VARIABLES[name][1]
    others = [name for name in os.environ if name.startswith("ACCELERATE_DYNAMO_") and name not in EXPERIMENT_VARIABLES]
    for name in (*others, "ACCELERATE_GRADIENT_CLIPPING", "ACCELERATE_USE_PARALLELISM_CONFIG"):
        os.environ.pop(name, None)
    return {name: value for name, value in found.items() if value.lower() != EXPERIMENT_VARIABLES[name][1].lower()}


def report_ignored_variables(asked: Mapping[str, str], args: TrainingArguments):
    """Print a line for each variable that differs from the run's settings, from the first process."""
    has = {
        "ACCELERATE_MIXED_PRECISION": args.mixed_precision,
        "ACCELERATE_DYNAMO_BACKEND": args.torch_compile_backend if args.torch_compile else "no",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": args.gradient_accumulation_steps,
        "ACCELERATE_GRADIENT_CLIPPING": args.max_grad_norm,
    }
    for name, value in asked.items() if int(os.environ.get("RANK", 0)) == 0 else ():
        word, _, where = EXPERIMENT_VARIABLES[name]
        if value.lower() != str(has[name]).lower():
            print(f"launcher    {word}={value} has no effect: the experiment decides ({where}), and says {has[name]}")

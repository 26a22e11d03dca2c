"""The model: configuration, layers, attention, the two families, and their export.

Its files go to the Hub with each checkpoint, so they import no other room.
Registers both families with the Auto classes.
"""

import sys
from functools import cache


@cache
def register():
    """Register both families with the Auto classes, and name their classes here."""
    global KindlingGPTConfig, KindlingLlamaConfig
    global KindlingGPTForCausalLM, KindlingGPTModel, KindlingLlamaForCausalLM, KindlingLlamaModel

    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    from .configuration_kindling import KindlingGPTConfig, KindlingLlamaConfig
    from .modeling_kindling import (
        KindlingGPTForCausalLM,
        KindlingGPTModel,
        KindlingLlamaForCausalLM,
        KindlingLlamaModel,
    )

    for config, model, causal_lm in (
        (KindlingGPTConfig, KindlingGPTModel, KindlingGPTForCausalLM),
        (KindlingLlamaConfig, KindlingLlamaModel, KindlingLlamaForCausalLM),
    ):
        AutoConfig.register(config.model_type, config)
        AutoModel.register(config, model)
        AutoModelForCausalLM.register(config, causal_lm)


# While Python looks for a module to run, argv[0] is "-m". These imports take seconds, so `python -m modeling.native`
# reads its arguments first, and registers then.
if not (sys.argv[:1] == ["-m"] and f"{__name__}.native" in sys.orig_argv):
    register()

"""The model: configuration, layers, attention, the two families, and their export.

Its files go to the Hub with each checkpoint, so they import no other room.
Registers both families with the Auto classes.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .configuration_kindling import KindlingGPTConfig, KindlingLlamaConfig
from .modeling_kindling import KindlingGPTForCausalLM, KindlingGPTModel, KindlingLlamaForCausalLM, KindlingLlamaModel

for config, model, causal_lm in (
    (KindlingGPTConfig, KindlingGPTModel, KindlingGPTForCausalLM),
    (KindlingLlamaConfig, KindlingLlamaModel, KindlingLlamaForCausalLM),
):
    AutoConfig.register(config.model_type, config)
    AutoModel.register(config, model)
    AutoModelForCausalLM.register(config, causal_lm)

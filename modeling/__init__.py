"""Registers the two families with transformers' Auto classes."""

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

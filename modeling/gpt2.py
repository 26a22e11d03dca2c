"""Mapping between GPT-2's parameters and ours: names, stacking and transposition."""

import torch

# GPT-2's modules to ours; several of ours are stacked along the output dimension.
GPT2_ENDS = {
    "transformer.wte": ["model.embed_tokens"],
    "transformer.wpe": ["model.embed_positions"],
    "transformer.ln_f": ["model.norm"],
    "lm_head": ["lm_head"],
}
GPT2_BLOCK = {
    "ln_1": ["input_layernorm"],
    "attn.c_attn": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attn.c_proj": ["self_attn.o_proj"],
    "ln_2": ["post_attention_layernorm"],
    "mlp.c_fc": ["mlp.up_proj"],
    "mlp.c_proj": ["mlp.down_proj"],
}


def weights_to_gpt2(ours: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Our tensors by parameter name (weights, or gradients) with GPT-2's names, stacking and transposition.

    Tensors that GPT-2 does not have keep their names.
    """
    rest, theirs = dict(ours), {}
    for name, parts in _gpt2_names(layers).items():
        if parts[0] in rest:
            theirs[name] = _transpose_conv1d(name, torch.cat([rest.pop(part) for part in parts]))
    return theirs | rest


def weights_from_gpt2(theirs: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """The inverse of `weights_to_gpt2`."""
    rest, ours = dict(theirs), {}
    for name, parts in _gpt2_names(layers).items():
        if name in rest:
            ours |= zip(parts, _transpose_conv1d(name, rest.pop(name)).chunk(len(parts)), strict=True)
    return ours | rest


def _gpt2_names(layers):
    """GPT-2's parameter names to ours."""
    modules = GPT2_ENDS | {
        f"transformer.h.{i}.{theirs}": [f"model.layers.{i}.{part}" for part in ours]
        for i in range(layers)
        for theirs, ours in GPT2_BLOCK.items()
    }
    return {
        f"{theirs}.{kind}": [f"{part}.{kind}" for part in ours]
        for theirs, ours in modules.items()
        for kind in ("weight", "bias")
    }


def _transpose_conv1d(name, tensor):
    """GPT-2's projections (c_attn, c_proj, c_fc) are Conv1D: in x out, where nn.Linear is out x in."""
    return tensor.T if ".c_" in name and tensor.ndim == 2 else tensor

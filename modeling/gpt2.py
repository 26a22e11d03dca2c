"""GPT-2's parameters as ours: what each is called, which of ours it stacks, and which way its matrices lie."""

import torch

# GPT-2's modules and the modules of ours that they hold, stacked along the outputs where they are several.
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


def gpt2_weights(ours: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Our tensors by parameter name (weights, or gradients) as GPT-2 names, stacks and transposes them.

    Tensors that GPT-2 does not have keep their names.
    """
    rest, theirs = dict(ours), {}
    for name, parts in _gpt2_names(layers).items():
        if parts[0] in rest:
            theirs[name] = _turn(name, torch.cat([rest.pop(part) for part in parts]))
    return theirs | rest


def weights_of_gpt2(theirs: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """The inverse of `gpt2_weights`."""
    rest, ours = dict(theirs), {}
    for name, parts in _gpt2_names(layers).items():
        if name in rest:
            ours |= zip(parts, _turn(name, rest.pop(name)).chunk(len(parts)), strict=True)
    return ours | rest


def _gpt2_names(layers):
    """Each of GPT-2's parameters, to the parameters of ours that it holds."""
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


def _turn(name, tensor):
    """GPT-2's projections (c_attn, c_proj, c_fc) are Conv1D: in x out, where nn.Linear is out x in."""
    return tensor.T if ".c_" in name and tensor.ndim == 2 else tensor

"""Known shapes of models, for `model.preset`: values of the section `model`, each of which can be overridden."""


def _gpt2(width: int, layers: int, heads: int) -> dict:
    """One of OpenAI's GPT-2s (Radford et al., 2019), without the rows by which others pad its vocabulary."""
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {"type": "kindling_gpt", "vocab_size": 50_257, "max_position_embeddings": 1024} | sizes


def _llama(width: int, layers: int, heads: int, mlp: int, **others) -> dict:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": mlp}
    return {"type": "kindling_llama"} | sizes | others


EPS = {"norm_eps": 1e-5}
PRESETS = {
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    # Of Stanford's CS336, assignment 1, for TinyStories: 17M parameters without the embedding.
    "ts-17m": _llama(512, 4, 16, 1344, vocab_size=10_000, max_position_embeddings=256, **EPS),
    # GPT-2's size and vocabulary with LLaMA's parts.
    "llama-124m": _llama(768, 12, 12, 2048, vocab_size=50_257, tie_word_embeddings=True, **EPS),
    "smollm2-135m": _llama(
        576, 30, 9, 1536, num_key_value_heads=3, vocab_size=49_152, max_position_embeddings=8192,
        rope_theta=100_000.0, tie_word_embeddings=True, **EPS,
    ),
    "tinyllama-1.1b": _llama(
        2048, 22, 32, 5632, num_key_value_heads=4, vocab_size=32_000, max_position_embeddings=2048, **EPS
    ),
    "llama-7b": _llama(4096, 32, 32, 11_008, vocab_size=32_000, max_position_embeddings=2048),
}  # fmt: skip

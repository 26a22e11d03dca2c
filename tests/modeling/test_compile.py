"""`torch.compile` with `fullgraph=True`, in training and decoding: one graph, compiled once, that computes the same.

And flex attention, which on a CPU exists only compiled. The backends "eager" and "aot_eager" trace all that Inductor
would, and generate no code; Inductor itself is `slow`.
"""

import shutil

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig, StaticCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

CLOSE = {"atol": 1e-5, "rtol": 0}
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")


@pytest.fixture(params=["llama-grouped-tied", "gpt", "llama-nowhere"])
def model(request, vary):
    """A model of each kind of position."""
    return vary(request.param)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    """Nothing compiled before, and a second compilation is an error."""
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch._dynamo.reset()


def assert_one_graph():
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def check_training(model, tokens, backend):
    """Three steps on different batches, labels masked differently: loss and gradients as without compilation."""
    model.train()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for step in range(3):
        ids = tokens(2, 16).roll(step, dims=1)
        labels = ids.masked_fill(torch.arange(16) < step, -100)
        batch = {"input_ids": ids, "labels": labels, "num_items_in_batch": (labels[:, 1:] != -100).sum()}
        found = []
        for one in (compiled, model):
            model.zero_grad()
            loss = one(**batch, use_cache=False).loss
            loss.backward()
            found.append([loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
        torch.testing.assert_close(*found, **CLOSE)
    assert_one_graph()


def check_decoding(model, tokens, backend):
    """`generate` compiles one step of a static cache, once; the tokens of a padded batch are those of a dynamic one."""
    static = CompileConfig(fullgraph=True, backend=backend, mode=None, dynamic=False)
    static._compile_all_devices = True
    ids, mask = tokens() % 511 + 1, torch.ones(2, 16, dtype=torch.long)
    mask[0, :5] = 0
    greedy = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 8, "do_sample": False}
    drawn = model.generate(**greedy, cache_implementation="static", compile_config=static)
    assert_one_graph()
    assert torch.equal(drawn, model.generate(**greedy))


def test_training_is_one_graph(model, tokens):
    check_training(model, tokens, "aot_eager")


def test_decoding_is_one_graph(model, tokens):
    check_decoding(model, tokens, "eager")


@needs_compiler
@pytest.mark.slow
def test_inductor_computes_the_same(vary, tokens):
    model = vary("llama-grouped-tied")
    check_training(model, tokens, "inductor")
    torch._dynamo.reset()
    counters.clear()
    check_decoding(model, tokens, "inductor")


CACHES = {
    "default": lambda _config: {},
    "static": lambda config: {"past_key_values": StaticCache(config=config, max_cache_len=24)},
}


@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("cache", CACHES)
def test_packed_documents_do_not_leak_in_a_graph(vary, tokens, cache, masked):
    """A graph can't look whether positions begin again, and must be ready for it."""
    model, ids, positions = vary("gpt-rotary-grouped"), tokens(), torch.cat([torch.arange(6), torch.arange(10)])[None]
    mask = {"attention_mask": torch.ones_like(ids)} if masked else {}
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        packed = compiled(ids, position_ids=positions, **mask, **CACHES[cache](model.config)).logits
        apart = torch.cat([model(ids[:, :6]).logits, model(ids[:, 6:]).logits], dim=1)
    torch.testing.assert_close(packed, apart, **CLOSE)


# ---- flex attention


def flex_calls(ids):
    """Every kind of mask: none, pads on either side, documents told apart by positions without and with a cache."""
    left = (torch.arange(16, device=ids.device) > torch.tensor([[4], [-1]], device=ids.device)).long()
    positions = {"position_ids": torch.cat([torch.arange(6), torch.arange(10)]).to(ids.device)[None]}
    return {
        "causal": {},
        "left": {"attention_mask": left},
        "right": {"attention_mask": left.flip(1)},
        "packed": positions | {"use_cache": False},
        "packed, cached": positions,
        "packed, masked": positions | {"attention_mask": torch.ones_like(ids)},
    }


def check_flex(model, ids, kind, compute):
    """What `compute` gives for real tokens, in flex attention and in sdpa."""
    given = flex_calls(ids)[kind]
    real = given.get("attention_mask", torch.ones_like(ids)).bool()
    expected = compute(given, real)
    model.set_attn_implementation("flex_attention")
    torch.testing.assert_close(compute(given, real), expected, **CLOSE)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("kind", flex_calls(torch.zeros(2, 16)))
def test_flex_attention_equals_sdpa(vary, tokens, kind, monkeypatch):
    """Forward only: PyTorch has no backward of it on a CPU."""
    model, ids, calls = vary("gpt-rotary-grouped"), tokens(), []
    flex = ALL_ATTENTION_FUNCTIONS["flex_attention"]
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flex_attention", lambda *a, **k: calls.append(1) or flex(*a, **k))
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=False):
        check_flex(model, ids, kind, lambda given, real: model(ids, **given).logits[real])
    assert len(calls) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("kind", flex_calls(torch.zeros(2, 16)))
def test_flex_attention_has_the_gradients_of_sdpa(vary, tokens, kind):
    model, ids = vary("gpt-rotary-grouped").cuda(), tokens().cuda()

    def gradients(given, real):
        model.zero_grad()
        model(ids, labels=ids.masked_fill(~real, -100), **given).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    with torch._dynamo.config.patch(error_on_recompile=False):
        check_flex(model, ids, kind, gradients)


@pytest.mark.parametrize("given", [(), ("attention_mask", "position_ids")])
def test_an_exported_program_takes_batches_of_any_shape(model, tokens, given):
    """`torch.export` with batch and length left open, with and without what a caller may add."""

    def inputs(batch, length):
        ids = tokens(batch, length)
        extra = {"attention_mask": torch.ones_like(ids), "position_ids": torch.arange(length).expand(batch, -1)}
        return {"input_ids": ids, "use_cache": False} | {name: extra[name] for name in given}

    shape = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    shapes = dict.fromkeys(("input_ids", *given), shape) | {"use_cache": None}
    program = torch.export.export(model, (), inputs(3, 12), dynamic_shapes=shapes)
    for batch, length in ((2, 7), (5, 20)):
        expected = model(**inputs(batch, length)).logits
        torch.testing.assert_close(program.module()(**inputs(batch, length)).logits, expected, **CLOSE)

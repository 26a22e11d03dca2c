"""Generation in every variant: the cache and padding change nothing, a seed decides, positions are the limit."""

import torch

from modeling.releases import CACHE

CLOSE = {"atol": 1e-12, "rtol": 0}  # float64's rounding over sums taken in another order
GREEDY = {"max_new_tokens": 8, "do_sample": False}


def test_cache_changes_nothing(build, tokens, axes):
    model, ids = build(**axes, num_hidden_layers=2).double(), tokens()
    step_by_step, past = [], None
    for t in range(ids.shape[1]):
        outputs = model(ids[:, t : t + 1], **{CACHE: past}, use_cache=True)
        past = outputs[CACHE]
        step_by_step.append(outputs.logits)
    torch.testing.assert_close(torch.cat(step_by_step, dim=1), model(ids).logits, **CLOSE)

    assert torch.equal(model.generate(ids, **GREEDY), model.generate(ids, **GREEDY, use_cache=False))


def test_padded_prompts_generate_as_alone(build, tokens, axes):
    model, ids = build(**axes, num_hidden_layers=2), tokens(1, 10)
    mask = torch.cat([torch.zeros(1, 6, dtype=torch.long), torch.ones(1, 10, dtype=torch.long)], dim=1)
    padded = torch.cat([torch.zeros(1, 6, dtype=torch.long), ids], dim=1)
    alone = model.generate(ids, **GREEDY)
    assert torch.equal(model.generate(padded, attention_mask=mask, **GREEDY)[:, 6:], alone)


def test_sampling_repeats_under_a_seed(build, tokens):
    model = build()

    def sample(seed):
        torch.manual_seed(seed)
        return model.generate(tokens(), max_new_tokens=8, do_sample=True)

    assert torch.equal(sample(0), sample(0))
    assert not torch.equal(sample(0), sample(1))


def test_generation_stops_where_positions_end(build, tokens):
    model = build("kindling_gpt", max_position_embeddings=20)
    assert model.generation_config.max_length == 20
    assert model.generate(tokens(), do_sample=False).shape == (2, 20)


def test_use_cache_is_a_default_and_a_choice(build, tokens):
    ids = tokens()
    assert build()(ids)[CACHE].get_seq_length() == 16
    assert CACHE not in build()(ids, use_cache=False)
    assert CACHE not in build(use_cache=False)(ids)

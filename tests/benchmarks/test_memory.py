"""The estimate of a training step's memory against what PyTorch's allocator hands out; nothing here depends on time."""

import pytest
import torch

from benchmarks.memory import Case, allocated_peak

CASES = {
    "the loss": Case("llama", 2, 64, 4000, 4, length=64),
    "the last block": Case("gpt", 4, 128, 100, 8, length=64, training={"bf16": True}),
    "the first block": Case("llama", 4, 128, 100, 4, length=64, training={"activation_checkpointing": True}),
    "the optimiser": Case("gpt", 4, 128, 100, 1, length=32, optimizer="muon"),
}


def test_a_z_loss_keeps_two_more_tensors_of_logits():
    case = Case("llama", 2, 64, 4000, 4, length=64, z_loss=1e-4)
    assert case.estimate()[1] - CASES["the loss"].estimate()[1] == 2 * 4 * 4 * 64 * 4000
    assert case.estimate()[1] == pytest.approx(allocated_peak(case.work), rel=0.05)


@pytest.mark.parametrize("heads", [2, 1])
def test_with_dropout_of_attention_the_scores_are_kept(heads):
    model = {"attention_dropout": 0.1, "num_key_value_heads": heads}
    case = Case("llama", 2, 128, 100, 4, length=128, model=model)
    assert case.estimate()[1] == pytest.approx(allocated_peak(case.work), rel=0.05)


@pytest.mark.parametrize("phase", CASES)
def test_the_peak_is_what_the_allocator_hands_out(phase):
    case = CASES[phase]
    found, estimate = case.estimate()
    assert found == phase
    assert estimate == pytest.approx(allocated_peak(case.work), rel=0.05)


def test_the_allocator_is_asked_for_the_peak_alone():
    def work():
        for _ in range(3):
            first = torch.empty(1000)
            del first
        torch.empty(500) + torch.empty(500)

    assert allocated_peak(work) == 3 * 500 * 4

"""TRL: its SFTTrainer fine-tunes a Kindling model, on the loss that transformers' Llama would have."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from data_prep.fables import fable

trl = pytest.importorskip("trl", reason="pip install trl")


def test_supervised_fine_tuning(model, export, tokenizer, tmp_path):
    dataset = Dataset.from_list([{"text": fable("trl", index)} for index in range(8)])
    settings = {"max_length": 64, "per_device_train_batch_size": 8, "use_cpu": True, "bf16": False, "seed": 0}
    settings |= {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}

    def tune(model):
        arguments = trl.SFTConfig(output_dir=str(tmp_path), max_steps=4, learning_rate=1e-2, **settings)
        trainer = trl.SFTTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=tokenizer)
        trainer.train()
        return [row["loss"] for row in trainer.state.log_history if "loss" in row]

    losses = tune(model)
    assert losses[-1] < losses[0] - 0.1
    assert losses == pytest.approx(tune(AutoModelForCausalLM.from_pretrained(export)), abs=1e-4)

    model.save_pretrained(tmp_path / "tuned")
    ids = torch.arange(40)[None]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned")
    torch.testing.assert_close(again(ids).logits, model.eval()(ids).logits, atol=1e-6, rtol=0)

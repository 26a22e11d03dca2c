"""Several processes that train together, and runs of a tiny model on numbered windows in each that calls `run_all`.

FOLDER/PROCESS.jsonl says of each run, with so many windows and such accumulation, what it trained on and how well.
"""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
from accelerate.state import AcceleratorState
from transformers import AutoModelForCausalLM, TrainingArguments, set_seed

import modeling  # noqa: F401
from data_prep.collator import CausalLMCollator
from data_prep.tokens.order import Epochs
from data_prep.tokens.windows import TokenArray, Windows
from modeling.configuration_kindling import KindlingGPTConfig
from tests.training.checkpoints.test_store import in_children
from training.attention import attention_implementation
from training.checkpoints.data_position import DataPosition, run_positions
from training.trainer import KindlingTrainer

LENGTH = 6
PAD = 499


def in_processes(count: int, work: Callable[[int], None]) -> list[int]:
    """Do `work(rank)` in so many forks of this process, as a launcher would start them; how they ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}

    def start(rank: int):
        AcceleratorState._reset_state(reset_partial_state=True)  # the parent's, of one process
        if count > 1:
            os.environ.update(place | {"LOCAL_WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)})
        work(rank)

    return in_children([lambda rank=rank: start(rank) for rank in range(count)])


class Noting(KindlingTrainer):
    """Notes the first id of each row that has targets."""

    def training_step(self, model, inputs, *arguments):
        rows = zip(inputs["input_ids"], inputs["labels"][:, 1:], strict=True)
        found = [int(ids[0]) for ids, labels in rows if (labels >= 0).any()]
        self.noted.append((self.state.global_step + 1, found))
        return super().training_step(model, inputs, *arguments)


def run(count: int, accumulation: int, batch: int, folder: str) -> dict:
    """Train one and a half epochs of `count` windows."""
    set_seed(0)
    config = KindlingGPTConfig(
        vocab_size=500, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=LENGTH,
        pad_token_id=PAD, bos_token_id=0, eos_token_id=0, hidden_dropout=0.2, embedding_dropout=0.2,
        attention_dropout=0.2,
    )  # fmt: skip
    args = TrainingArguments(
        output_dir=folder, use_cpu=True, save_strategy="no", disable_tqdm=True, report_to="none", logging_steps=1,
        remove_unused_columns=False, train_sampling_strategy="sequential", per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation, num_train_epochs=1.5, learning_rate=1e-2,
    )  # fmt: skip
    ids = np.arange(count * (LENGTH - 1) + 1, dtype=np.uint16)
    args.max_steps, positions = run_positions(count, {}, args, None)
    order = Epochs(Windows(TokenArray([ids], [len(ids)]), LENGTH), **positions)
    attention = attention_implementation(args, config)
    trainer = Noting(
        model=AutoModelForCausalLM.from_config(config, attn_implementation=attention), args=args, train_dataset=order,
        data_collator=CausalLMCollator(PAD), callbacks=[DataPosition(order)], text_bytes=None, peak_flops=1e9,
    )  # fmt: skip
    trainer.noted = []
    trainer.train()
    logs = [row for row in trainer.state.log_history if "loss" in row]
    about = {"count": count, "accumulation": accumulation, "process": args.process_index, "noted": trainer.noted}
    return about | {"losses": [row["loss"] for row in logs], "tokens": [row["tokens"] for row in logs]}


def run_all(batch: int, folder: Path):
    """So many windows that the end of the run falls anywhere in a batch, with accumulation and without."""
    for count in range(5, 12):
        for accumulation in (1, 2):
            about = run(count, accumulation, batch, str(folder))
            with (folder / f"{about['process']}.jsonl").open("a") as file:
                file.write(json.dumps(about) + "\n")

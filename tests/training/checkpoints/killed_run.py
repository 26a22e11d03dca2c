"""A run of train_lm.py that notes the ids it trains on and kills itself, as `kill -9` would, after given steps.

usage: python tests/training/checkpoints/killed_run.py CONFIG LEDGER [STEP ...]

kills after the first STEP that is not yet reached.

Blocks and shards of a stream are small here, in the writing process too, through `sitecustomize`.
"""

import json
import os
import signal
import sys
from pathlib import Path

SMALL = """
import data_prep.tokens.background_writer, data_prep.tokens.prepare, data_prep.tokens.writer
data_prep.tokens.stream.BLOCK_TOKENS = data_prep.tokens.prepare.BLOCK_TOKENS = 300
data_prep.tokens.writer.TOKENS_PER_SHARD, data_prep.tokens.writer.CHARACTERS_PER_BATCH = 100, 50
"""


def run(config: str, ledger: Path, kills: list[int]):
    """Train, on from the last checkpoint."""
    import train_lm
    from training.trainer import KindlingTrainer

    reached = max((json.loads(line)["step"] for line in ledger.read_text().splitlines()), default=0)
    kill = next((step for step in kills if step > reached), None)
    step = KindlingTrainer.training_step

    def noted(self, model, inputs, *arguments):
        row = {"run": reached, "process": self.args.process_index, "step": self.state.global_step + 1}
        row["ids"] = inputs["input_ids"].tolist()
        with ledger.open("a") as file:
            file.write(json.dumps(row) + "\n")
        result = step(self, model, inputs, *arguments)
        if row["step"] == kill and self.accelerator.sync_gradients:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    KindlingTrainer.training_step = noted
    train_lm.main(config, ["training.resume_from_checkpoint=true"])


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), [int(step) for step in sys.argv[3:]])

"""A long run needs no more memory, and no more open files, at its end than at its beginning."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from settings.paths import ROOT

EXPERIMENT = """
model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 16}
tokenizer: {vocab_size: 300, train_documents: 50}
data: {train_documents: 100, validation_documents: 5, cache_dir: %s}
training:
  {output_dir: %s, max_steps: %d, per_device_train_batch_size: 2, logging_steps: 10, eval_steps: 100, save_steps: 500,
   use_cpu: true, bf16: false, disable_tqdm: true}
sample: {max_new_tokens: 8}
"""
FIRST, LAST, EACH = 2_000, 12_000, 500
NOTING = f"""
import gc, json, sys
from pathlib import Path
import psutil
import train_lm
from training.trainer import KindlingTrainer

process, noted, step = psutil.Process(), [], KindlingTrainer.training_step

def noting(self, *arguments):
    done = self.state.global_step
    if done >= {FIRST} and done % {EACH} == 0:
        gc.collect()  # figures leave parts that know each other, which wait for the collector
        noted.append((done, process.memory_info().rss, process.num_fds()))
    return step(self, *arguments)

KindlingTrainer.training_step = noting
train_lm.main(sys.argv[1], [])
Path(sys.argv[2]).write_text(json.dumps(noted))
"""


@pytest.mark.slow
def test_memory_and_open_files_stay_as_they_are(tmp_path):
    """Over ten thousand steps with logs, evaluations, curves, samples and checkpoints, after two thousand to begin."""
    (tmp_path / "soak.yaml").write_text(EXPERIMENT % (tmp_path / "prepared", tmp_path / "run", LAST))
    command = [sys.executable, "-c", NOTING, str(tmp_path / "soak.yaml"), str(tmp_path / "noted.json")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    steps, memory, files = np.array(json.loads((tmp_path / "noted.json").read_text())).T
    assert len(steps) == (LAST - FIRST) / EACH
    slope = np.polyfit(steps / 1000, memory / 1e6, 1)[0]
    assert slope < 1, f"{slope:.2f} MB each 1,000 steps: {memory.tolist()}"
    assert len(set(files.tolist())) == 1, files.tolist()

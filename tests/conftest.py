"""What every test shares: one thread, no network, no deadlines, and where real samples lie."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("kindling", deadline=None)  # a busy machine is no fault
settings.load_profile("kindling")


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real corpora that KINDLING_DATA names."""
    if "KINDLING_DATA" not in os.environ:
        pytest.skip("KINDLING_DATA is not set")
    return Path(os.environ["KINDLING_DATA"])

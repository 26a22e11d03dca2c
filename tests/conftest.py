"""What every test shares: one thread, no network, no deadlines, and where real samples lie."""

import gc
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

import pytest
import torch
from hypothesis import settings
from transformers.utils import logging

torch.set_num_threads(1)
settings.register_profile("kindling", deadline=None)  # a busy machine is no fault
settings.load_profile("kindling")


LONG = (
    "test_streaming.py", "test_publish.py", "test_launch.py", "test_processes.py", "test_kills.py", "test_position.py",
    "test_secrets.py", "test_signals.py", "test_serve.py", "test_harness.py", "test_export.py",
)  # fmt: skip
"""Modules of few tests that take long."""


def pytest_collection_modifyitems(items):
    """These first, so that no worker is left alone with one of them at the end."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_collection_finish():
    """What is imported by now is there to stay: the collection that ends each training need not go through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def process_as_found(monkeypatch):
    """What a command sets for its own process is set back, so that no test depends on those before it."""
    environment, folder = dict(os.environ), Path.cwd()
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    yield
    monkeypatch.undo()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    logging.set_verbosity(verbosity)
    (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real corpora that KINDLING_DATA names."""
    if "KINDLING_DATA" not in os.environ:
        pytest.skip("KINDLING_DATA is not set")
    return Path(os.environ["KINDLING_DATA"])

"""Measure the cost of corpora: encoding next to the tokenizers library, loading, resuming, a huge document, BPE.

usage: python -m benchmarks.corpora [--gigabytes 2.2] [--megabytes 500]

prints a table and writes experiments/results/corpora.json. Texts are fables and, where KINDLING_DATA names their
folder, samples of real corpora. Each measurement is a process of its own, so that its peak memory is its own.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from settings.paths import ROOT

ROUNDS = 3
SAMPLES = {"TinyStories": "tinystories", "C4": "c4", "the Pile": "pile"}
CONSONANTS, VOWELS = "bcdfghklmnprstvz", "aeiou"


def texts_of(name: str) -> list[str]:
    """Some MB of a corpus; of fables, stories."""
    from data_prep.fables import fable
    from data_prep.sources.table import open_corpus
    from settings.data_sections import DataSection

    if name == "fables":
        return [fable("benchmark", index) for index in range(10_000)]
    folder = Path(os.environ["KINDLING_DATA"]) / SAMPLES[name]
    train, _ = open_corpus(DataSection(source=str(folder)))
    return [document["text"] for document in train]


def encoding(name: str) -> dict:
    """MB of text per second of processor time, one thread, by the tokenizers library and by ours, alternating."""
    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    from data_prep.tokenizer.bpe import train_bpe
    from data_prep.tokenizer.build import wrap
    from data_prep.tokenizer.encoder import Encoder

    texts = texts_of(name)
    size = sum(len(text.encode()) for text in texts) / 1e6
    tokenizer = wrap(train_bpe(texts, 10_000))
    seconds = {"tokenizers": [], "ours": []}
    for _ in range(ROUNDS):
        started = time.process_time()
        rows = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        seconds["tokenizers"].append(time.process_time() - started)
        encode = Encoder(tokenizer)  # a new one, whose cache is empty
        encode(texts[:1])  # compares both encoders, once per process
        started = time.process_time()
        ids, _ = encode(texts)
        seconds["ours"].append(time.process_time() - started)
    if ids.tolist() != [token for row in rows for token in row.ids]:
        raise AssertionError("the ids differ")
    speed = {way: round(size / statistics.median(taken), 1) for way, taken in seconds.items()}
    return {"text_MB": round(size, 1), "MB_per_s": speed, "times": round(speed["ours"] / speed["tokenizers"], 1)}


def loading() -> dict:
    """Tokens per second through windows, order and collator; and seconds to the first batch of a resumed run."""
    import numpy as np
    from accelerate import skip_first_batches
    from torch.utils.data import DataLoader

    from data_prep.collator import CausalLMCollator
    from data_prep.tokens.order import Epochs
    from data_prep.tokens.windows import TokenArray, Windows

    length, batch, steps = 257, 32, 100_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ids.npy"
        np.save(path, np.random.default_rng(0).integers(2, 10_000, 20_000_000).astype(np.uint16))
        windows = Windows(TokenArray([path], [20_000_000]), length)
        loader = DataLoader(Epochs(windows, 0, steps * batch), batch_size=batch, collate_fn=CausalLMCollator(1))
        started = time.perf_counter()
        count = sum(rows["input_ids"].numel() for rows in islice(loader, 500))
        speed = count / (time.perf_counter() - started)
        seconds = {}
        for share in (0.01, 0.9):
            started = time.perf_counter()
            next(iter(skip_first_batches(loader, int(share * steps))))
            seconds[f"at {share:.0%} of {steps:,} steps"] = round(time.perf_counter() - started, 3)
    return {"tokens_per_s": round(speed), "seconds_to_go_on": seconds}


def streaming(megabytes: int) -> dict:
    """Seconds to the first batch of a run that streams a new corpus, of a resumed one, and of a full preparation."""
    from data_prep.collator import CausalLMCollator
    from data_prep.tokens.background_writer import start_writer_process
    from data_prep.tokens.prepare import prepare
    from data_prep.tokens.stream import in_order
    from settings.data_sections import DataSection, TokenizerSection

    length, batch = 257, 32
    with tempfile.TemporaryDirectory() as folder:
        small = DataSection(source="fables", train_documents=500, validation_documents=5, cache_dir=folder)
        prepared = prepare(small, TokenizerSection(vocab_size=4000))
        section = TokenizerSection(kind="pretrained", path=str(prepared.folder / "tokenizer"))
        with (Path(folder) / "corpus.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in named_fables(megabytes * 1e6))
        about = {"source": f"{folder}/corpus.jsonl", "validation_documents": 100}
        started = time.perf_counter()
        whole = prepare(DataSection(**about, cache_dir=f"{folder}/whole"), section)
        seconds = {"all tokens prepared": round(time.perf_counter() - started, 2)}
        steps = whole.info["train"].tokens // (batch * (length - 1))

        def first_batch(step: int) -> float:
            """Seconds from an opened folder, as in a run that is started or resumed, to the batch of a step."""
            from accelerate import skip_first_batches
            from torch.utils.data import DataLoader

            started = time.perf_counter()
            data = DataSection(**about, streaming=True, cache_dir=f"{folder}/streamed")
            begun = prepare(data, section)
            run = in_order(begun.training_examples(data, length), seed=0, stop=steps * batch)
            start_writer_process(data, section, run)
            loader = DataLoader(run, batch_size=batch, collate_fn=CausalLMCollator(1))
            next(iter(skip_first_batches(loader, step)))
            taken = round(time.perf_counter() - started, 2)
            run.tokens.wait_for(run.horizon)
            return taken

        seconds["first batch of a stream"] = first_batch(0)
        for share in (0.01, 0.9):
            seconds[f"going on at {share:.0%} of {steps:,} steps"] = first_batch(int(share * steps))
    return {"text_MB": megabytes, "tokens": whole.info["train"].tokens, "seconds": seconds}


def huge_document(kind: str) -> dict:
    """Peak memory over the baseline, in MB, of preparing one document of 100 MB on one line."""
    from data_prep import fables
    from data_prep.tokens.prepare import prepare
    from settings.data_sections import DataSection, TokenizerSection

    with tempfile.TemporaryDirectory() as folder:
        small = DataSection(source="fables", train_documents=500, validation_documents=5, cache_dir=folder)
        prepare(small, TokenizerSection(vocab_size=2000))  # loads and warms up all libraries
        story = json.dumps(" ".join(fables.fable("0", index) for index in range(1000)))[1:-1]
        path = Path(folder) / "corpus.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.write('{"text": "short"}\n{"text": "')
            for part in range(100_000_000 // len(story)):
                file.write(story if kind == "stories" else f"{story}{part}\U0001f600")
            file.write('"}\n')
        before = peak_megabytes()
        data = DataSection(source=str(path), validation_documents=1, cache_dir=folder)
        started = time.perf_counter()
        prepared = prepare(data, TokenizerSection(kind="pretrained", path=str(next(Path(folder).glob("*/tokenizer")))))
        seconds = time.perf_counter() - started
    tokens = prepared.info["train"].tokens
    return {"tokens": tokens, "seconds": round(seconds, 1), "peak_MB_over_baseline": round(peak_megabytes() - before)}


def named_fables(size: float) -> Iterator[str]:
    """Fables with a random name in each, so that new words keep appearing."""
    from data_prep.fables import fable

    generator = random.Random(0)
    stories = [fable("named", index) for index in range(20_000)]
    index = 0
    while size > 0:
        syllables = range(generator.randint(2, 4))
        name = "".join(generator.choice(CONSONANTS) + generator.choice(VOWELS) for _ in syllables).capitalize()
        text = f"{stories[index % len(stories)]} {name} was there."
        yield text
        index, size = index + 1, size - len(text)


def vocabulary(gigabytes: float) -> dict:
    """Seconds and peak memory of training BPE with 10,000 tokens on generated text."""
    from data_prep.tokenizer.bpe import train_bpe

    started = time.perf_counter()
    tokenizer = train_bpe(named_fables(gigabytes * 1e9), 10_000)
    seconds = time.perf_counter() - started
    return {
        "text_GB": gigabytes,
        "tokens": tokenizer.get_vocab_size(),
        "seconds": round(seconds, 1),
        "peak_memory_MB": round(peak_megabytes()),
    }


def peak_megabytes() -> float:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpora", description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.2, help="text for the vocabulary (default: 2.2)")
    parser.add_argument("--megabytes", type=int, default=500, help="text for the stream (default: 500)")
    arguments = parser.parse_args()
    names = ["fables", *(SAMPLES if "KINDLING_DATA" in os.environ else [])]
    measurements = {
        **{f"encoding {name}": (encoding, name) for name in names},
        "loading": (loading,),
        "streaming": (streaming, arguments.megabytes),
        "a document of 100 MB": (huge_document, "stories"),
        "a document of 100 MB with emoji": (huge_document, "emoji"),
        "a vocabulary": (vocabulary, arguments.gigabytes),
    }
    results = {}
    for title, (measure, *options) in measurements.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results[title] = pool.apply(measure, options)
        print(f"{title:34}{json.dumps(results[title])}", flush=True)
    path = ROOT / "experiments" / "results" / "corpora.json"
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

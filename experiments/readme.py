"""Tables of the README, made from the files in `experiments/results`.

usage: python -m experiments.readme          rewrites README.md between its table markers
"""

import argparse
import json

from config import ROOT, one_sentence
from sections import ConfigError

RESULTS = ROOT / "experiments" / "results"


def demo_table() -> str:
    """What `make demo` came to."""
    metrics, provenance = _read("demo")
    above = metrics["eval_bits_per_byte"] / metrics["floor_bits_per_byte"] - 1
    return _table(
        ("validation loss", f"{metrics['eval_loss']:.3f} nats a token (floor {metrics['floor_loss']:.3f})"),
        (
            "bits per byte",
            f"{metrics['eval_bits_per_byte']:.3f} (floor {metrics['floor_bits_per_byte']:.3f}: {above:.0%} above it)",
        ),
        ("time", f"{metrics['seconds'] / 60:.1f} minutes on {_hardware(provenance)}"),
    )


def results_table() -> str:
    """One row a run under `experiments/results`."""
    rows = ["| run | tokens | training FLOPs | minutes | loss | perplexity | bits per byte |", "|" + "---|" * 7]
    for folder in sorted(path.parent for path in RESULTS.glob("*/metrics.json")):
        metrics, _ = _read(folder.name)
        cells = (
            f"[{folder.name}](experiments/results/{folder.name})",
            f"{metrics['tokens']:,}",
            f"{metrics['total_flos']:.3g}",
            f"{metrics['seconds'] / 60:.1f}",
            f"{metrics['eval_loss']:.3f} ± {metrics['eval_loss_standard_error']:.3f}",
            f"{metrics['eval_perplexity']:.2f}",
            f"{metrics['eval_bits_per_byte']:.3f}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def story(run: str) -> str:
    """The last sample of a run, quoted."""
    rows = (RESULTS / run / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return "\n".join(f"> {line}".rstrip() for line in json.loads(rows[-1])["text"].splitlines())


def sweep_table(name: str) -> str:
    """The table that `experiments.report` made of a sweep, without its title."""
    return (RESULTS / name / "table.md").read_text(encoding="utf-8").partition("\n")[2].strip()


def corpora_table() -> str:
    """What corpora cost, as `benchmarks.corpora` measured it."""
    found = _json("corpora.json")
    times = {name.removeprefix("encoding "): about["times"] for name, about in found.items() if "times" in about}
    stream, learnt = found["streaming"]["seconds"], found["a vocabulary"]
    first, whole = stream["first batch of a stream"], stream["all tokens prepared"]
    resumed = {name: seconds for name, seconds in stream.items() if name.startswith("going on")}
    memory = [
        found[name]["peak_MB_over_baseline"] for name in ("a document of 100 MB", "a document of 100 MB with emoji")
    ]
    return _table(
        (
            "encoding, beside the tokenizers library, a thread each",
            ", ".join(f"{factor:.0f}x ({name})" for name, factor in times.items()),
        ),
        (
            f"{found['streaming']['text_MB']} MB, {found['streaming']['tokens'] / 1e6:.0f} million tokens",
            f"first batch of a stream after {first:.1f} s, all prepared after {whole:.0f} s",
        ),
        *((name, f"{seconds:.2f} s") for name, seconds in resumed.items()),
        (
            "a document of 100 MB on one line",
            f"{memory[0]} MB of memory over the baseline, {memory[1]} with emoji in it",
        ),
        (
            f"{learnt['tokens']:,} tokens learnt from {learnt['text_GB']} GB",
            f"{learnt['seconds']:.0f} s, {learnt['peak_memory_MB']} MB of memory",
        ),
    )


def flops_sentence() -> str:
    """How the stock Trainer's count compares, as `benchmarks.flops` has it."""
    shares = [counts["share"] for counts in _json("flops.json")["models"].values()]
    return (
        "The stock Trainer counts 6 x the parameters outside embeddings for each token, padding too, which leaves out "
        f"attention's T x T products\nand a tied head: of a full window {min(shares):.2f} to {max(shares):.2f} of ours "
        f"in the {len(shares)} models of [flops.json](experiments/results/flops.json)."
    )


TABLES = {
    "flops": flops_sentence,
    "demo": demo_table,
    "results": results_table,
    "demo story": lambda: story("demo"),
    "corpora": corpora_table,
    "grokking": lambda: sweep_table("bars"),
    "tinystories story": lambda: story("tinystories-small"),
}


def rewrite(readme: str) -> str:
    """The README with every table between `<!-- NAME -->` and `<!-- end -->` made anew."""
    for name, make in TABLES.items():
        before, rest = readme.split(f"<!-- {name} -->\n", 1)
        readme = f"{before}<!-- {name} -->\n{make()}\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
    return readme


def _json(name: str) -> dict:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def _read(run: str) -> tuple[dict, dict]:
    return _json(f"{run}/metrics.json"), _json(f"{run}/provenance.json")


def _hardware(provenance: dict) -> str:
    return "{device}, {precision}; {processor}".format(**provenance["hardware"])


def _table(*rows: tuple[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def main():
    """Rewrite it. `ConfigError` where Kindling is installed without one."""
    argparse.ArgumentParser(prog="python -m experiments.readme", description=__doc__.splitlines()[0]).parse_args()
    path = ROOT / "README.md"
    if not path.exists():
        raise ConfigError(f"there is no {path} to rewrite; run this in a checkout of Kindling")
    path.write_text(rewrite(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    with one_sentence("experiments.readme"):
        main()

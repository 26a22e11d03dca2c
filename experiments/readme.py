"""Tables and numbers of the README, the docs and the pages of results, made from the files in `experiments/results`.

usage: python -m experiments.readme          rewrites these pages between their marks
"""

import argparse
import json
from pathlib import Path

from command_line.run import exit_on_user_error
from settings.checks import ConfigError
from settings.paths import ROOT

from .cells import read_sweep
from .cited_numbers import RESULTS, rewrite_claims
from .file_map import file_map
from .runs import Row
from .saved_results import read_saved_results


def demo_table() -> str:
    """The results of `make demo`."""
    (metrics, provenance), source = _read("demo"), _json("fables.json")
    above = metrics["eval_bits_per_byte"] / metrics["floor_bits_per_byte"] - 1
    return _table(
        ("validation loss", f"{metrics['eval_loss']:.3f} nats per token (floor {metrics['floor_loss']:.3f})"),
        (
            "bits per byte",
            f"{metrics['eval_bits_per_byte']:.3f} (floor {metrics['floor_bits_per_byte']:.3f}: {above:.0%} above it)",
        ),
        (
            "entropy of the source",
            f"{source['bits_per_byte']:.4f} ± {source['standard_error']:.4f} bits per byte, estimated from "
            f"{source['stories']:,} [other stories](experiments/results/fables.json)",
        ),
        ("time", f"{metrics['seconds'] / 60:.1f} minutes on {_hardware(provenance)}"),
    )


def results_table() -> str:
    """One row per run under `experiments/results`."""
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


def last_sample(run: str) -> str:
    """The last sample of a run, quoted."""
    rows = (RESULTS / run / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return "\n".join(f"> {line}".rstrip() for line in json.loads(rows[-1])["text"].splitlines())


def sweep_table(name: str) -> str:
    """The table that `experiments.report` made of a sweep, without its title."""
    return (RESULTS / name / "table.md").read_text(encoding="utf-8").partition("\n")[2].strip()


def corpora_table() -> str:
    """The cost of reading corpora, as `benchmarks.corpora` measured it."""
    found = _json("corpora.json")
    times = {name.removeprefix("encoding "): about["times"] for name, about in found.items() if "times" in about}
    stream, learnt = found["streaming"]["seconds"], found["a vocabulary"]
    first, whole = stream["first batch of a stream"], stream["all tokens prepared"]
    resumed = {
        name.replace("going on", "resuming a stream"): seconds
        for name, seconds in stream.items()
        if name.startswith("going on")
    }
    memory = [
        found[name]["peak_MB_over_baseline"] for name in ("a document of 100 MB", "a document of 100 MB with emoji")
    ]
    return _table(
        (
            "encoding speed relative to the tokenizers library, one thread each",
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
            f"{learnt['tokens']:,} tokens of BPE trained on {learnt['text_GB']} GB",
            f"{learnt['seconds']:.0f} s, {learnt['peak_memory_MB']} MB of memory",
        ),
    )


def costs() -> str:
    """The cost of reliability, as `benchmarks.reliability` measured it."""
    found = _json("reliability.json")
    saves, step = found["100 MB"], found["tiny"]["step_milliseconds"]["stock"]
    share = found["added_microseconds_a_step"] / step / 10

    def ratio(name: str) -> str:
        low, high = found[name]["interval"]
        return f"{found[name]['step_ratio']} ({low} to {high})"

    def medians(name: str) -> str:
        return "{ours:.4g} and {stock:.4g} ms".format(**found[name]["step_milliseconds"])

    return (
        f"Each step takes {found['added_microseconds_a_step']} microseconds more, {share:.1f} % of a step of "
        f"{step:.0f} milliseconds.\nA save of {saves['saved_megabytes']} MB takes {saves['save_seconds']['ours']} s, "
        f"{saves['save_seconds']['stock']} s with the stock Trainer; verifying its hashes before resuming takes "
        f"{saves['check_seconds']} s.\nWhole steps differ by less than the machine's noise. The median ratio of "
        f"{found['machine']['rounds']} paired rounds with its 96 % interval is\n"
        f"{ratio('tiny')} with a tiny model, "
        f"{ratio('demo')} with the demo's. (Medians of all rounds, during which the\nmachine's speed varied: "
        f"{medians('tiny')}, {medians('demo')}, with other ratios.)"
    )


def flops_sentence() -> str:
    """How the stock Trainer's count compares, as `benchmarks.flops` measured it."""
    shares = [counts["share"] for counts in _json("flops.json")["models"].values()]
    return (
        "The stock Trainer counts 6 x the parameters outside embeddings for each token, padding too, which leaves out "
        f"attention's T x T products\nand a tied head: of a full window {min(shares):.2f} to {max(shares):.2f} of ours "
        f"in the {len(shares)} models of [flops.json](experiments/results/flops.json)."
    )


def memory_table() -> str:
    """Peaks of memory in training, as `benchmarks.memory` measured them, and their estimates."""
    found = _json("memory.json")["cases"]
    rows = ["| model | batch | training | measured (MB) | estimated (MB) | ratio |", "|" + "---|" * 6]
    for case in found:
        model = [f"{case['family']}, {case['layers']} x {case['width']}, vocabulary {case['vocabulary']:,}"]
        model += [f"{name}={value}" for name, value in case["model"].items()]
        training = ["bf16" if "bf16" in case["training"] else "fp32", case["optimizer"]]
        training += [TRAINING[name] for name in case["training"] if name in TRAINING] + ["z-loss"] * (
            case["z_loss"] > 0
        )
        cells = [", ".join(model), f"{case['batch']} x {case['length']}", ", ".join(training)]
        cells += [f"{case[name] / 1e6:,.1f}" for name in ("allocated", "estimate")]
        rows.append(f"| {' | '.join(cells)} | {case['ratio']:.3f} |")
    return "\n".join(rows)


TRAINING = {"activation_checkpointing": "checkpointed", "gradient_accumulation_steps": "accumulated"}


def shakespeare_table() -> str:
    """Tiny Shakespeare by nanoGPT's recipe and by ours, as `benchmarks.shakespeare` measured it."""
    found = _json("shakespeare/shakespeare.json")
    names = {
        "stock": "stock Trainer and GPT-2, nanoGPT's settings",
        "ours, few steps": "ours, few steps",
        "ours": "`configs/lm/shakespeare_char.yaml`",
    }
    lines = ["| | steps | tokens | time | processor time | validation loss |", "|" + "---|" * 6]
    for side, about in found["sides"].items():
        time, processor = (about[f"share_of_{key}"] for key in ("milliseconds", "processor_milliseconds"))
        low, high = about["loss"]["range"]
        loss = f"{about['loss']['mean']:.3f} ({low:.3f} to {high:.3f})"
        lines.append(
            f"| {names[side]} | {about['steps']:,} | {about['tokens']:,} | {time:.2f} | {processor:.2f} | {loss} |"
        )
    return "\n".join(lines)


def side_by_side(first: str, *others: str) -> str:
    """One row per cell: the published result that the first sweep cites, and the test accuracies of each sweep."""
    sweep = read_sweep(str(ROOT / "configs" / "sweeps" / f"{first}.yaml"))
    kept = {name: read_saved_results(RESULTS / name)[0] for name in (first, *others)}
    ((title, published),) = sweep.report["beside"].items()
    lines = [f"| | {title} | {' | '.join(TITLES[name] for name in kept)} |", "|" + "---|" * (2 + len(kept))]
    for cell in (cell.name for cell in sweep.cells):
        found = [
            Row({}, runs[cell]).entry("test_accuracy", "all") if cell in runs else NOT_RUN for runs in kept.values()
        ]
        lines.append(f"| {cell.replace('-', ' ')} | {published[cell]} | {' | '.join(found)} |")
    return "\n".join(lines)


NOT_RUN = "not run yet"
TITLES = {
    "report": "its recipe, three seeds (%)",
    "report-paper": "from the paper's start (%)",
    "report-ours": "by our recipes (%)",
}

TABLES = {
    "costs": costs,
    "report": lambda: side_by_side("report", "report-paper", "report-ours"),
    "flops": flops_sentence,
    "memory": memory_table,
    "demo": demo_table,
    "results": results_table,
    "shakespeare": shakespeare_table,
    "demo story": lambda: last_sample("demo"),
    "corpora": corpora_table,
    "files": file_map,
    "grokking": lambda: sweep_table("bars"),
    "tuning": lambda: sweep_table("tuning-tinystories"),
    "positions": lambda: sweep_table("positions"),
    "tinystories story": lambda: last_sample("tinystories-small"),
}


def rewrite(text: str, page: Path) -> str:
    """A page's text with every table between `<!-- NAME -->` and `<!-- end -->` made anew, and every marked number."""
    for name, make in TABLES.items():
        if f"<!-- {name} -->\n" in text:
            before, rest = text.split(f"<!-- {name} -->\n", 1)
            table = make().replace("](experiments/", f"]({_way_up(page)}experiments/")
            text = f"{before}<!-- {name} -->\n{table}\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
    return rewrite_claims(text)


def _way_up(page: Path) -> str:
    """From a page to the root, for its links."""
    return "../" * len(page.relative_to(ROOT).parent.parts)


def pages() -> list[Path]:
    """Those that have tables and numbers of results."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(RESULTS.glob("*/README.md"))]


def _json(name: str) -> dict:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def _read(run: str) -> tuple[dict, dict]:
    return _json(f"{run}/metrics.json"), _json(f"{run}/provenance.json")


def _hardware(provenance: dict) -> str:
    return "{device}, {precision}; {processor}".format(**provenance["hardware"])


def _table(*rows: tuple[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def main():
    """Rewrite all pages. `ConfigError` where Kindling is installed without them."""
    argparse.ArgumentParser(prog="python -m experiments.readme", description=__doc__.splitlines()[0]).parse_args()
    for path in pages():
        if not path.exists():
            raise ConfigError(f"there is no {path} to rewrite; run this in a checkout of Kindling")
        path.write_text(rewrite(path.read_text(encoding="utf-8"), path), encoding="utf-8")


if __name__ == "__main__":
    with exit_on_user_error("experiments.readme"):
        main()

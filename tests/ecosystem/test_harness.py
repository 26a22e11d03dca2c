"""lm-evaluation-harness: its numbers for a run and for the run's native export are those of the model's logits."""

import json
import math
import subprocess
import sys

import pytest
import torch

from data_prep.fables import fable

pytest.importorskip("lm_eval", reason="pip install 'kindling-lm[eval]'")

QUESTIONS = [
    {"question": "Once upon", "choices": ["a time", "the river", "x"], "answer": 0},
    {"question": "In a round house lived a sweet", "choices": ["gray donkey", "and"], "answer": 1},
    {"question": "Be my friend,", "choices": ["and you get my wand", "I like you better", "so"], "answer": 2},
    {"question": "The fox", "choices": ["was sad", "ran to the river", "is"], "answer": 1},
]
TEXTS = ["Once.", "A small fox lived by the river.", *(fable("harness", index) for index in range(3))]
TASKS = {
    "choice": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}]
""",
    "text": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
""",
}
# In a process that has never heard of Kindling; as the command `lm_eval`, which first reads all its 14,000 tasks.
EVALUATE = """
import json, sys
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

tasks = TaskManager(include_path=".", include_defaults=False)
common = {"model": "hf", "tasks": ["choice", "text"], "task_manager": tasks, "device": "cpu", "bootstrap_iters": 0}
found = {name: simple_evaluate(model_args=arguments, **common) for name, arguments in json.loads(sys.argv[1]).items()}
assert "modeling" not in sys.modules
json.dump({name: {key: one[key] for key in ("results", "samples")} for name, one in found.items()}, open("found", "w"))
"""


@pytest.fixture(scope="module")
def evaluated(run, export, elsewhere) -> dict[str, dict]:
    """What the harness finds for the export as it is, and for the run with its code and without start tokens."""
    here = elsewhere["cwd"]
    for name, documents in (("choice", QUESTIONS), ("text", [{"text": text} for text in TEXTS])):
        (here / f"{name}.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
        source = f"task: {name}\ndataset_path: json\ntest_split: test\n"
        source += f"dataset_kwargs: {{data_files: {{test: {here}/{name}.jsonl}}}}\n"
        (here / f"{name}.yaml").write_text(source + TASKS[name])
    models = {
        "export": f"pretrained={export}",
        "run": f"pretrained={run},trust_remote_code=True,add_bos_token=False",
    }
    command = [sys.executable, "-P", "-c", EVALUATE, json.dumps(models)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=300, **elsewhere)
    assert done.returncode == 0, done.stderr
    return json.loads((here / "found").read_text())


def log_likelihood(model, ids: list[int], start: int, longest: int = 64) -> float:
    """log p of the ids from `start` on, in stretches of `longest`, each given as many of those before as then fit."""
    total = 0.0
    for first in range(start, len(ids), longest):
        targets = ids[first : first + longest]
        end = first + len(targets) - 1
        with torch.no_grad():
            log_p = model(torch.tensor([ids[max(end - longest, 0) : end]])).logits[0, -len(targets) :]
        total += log_p.double().log_softmax(-1).gather(1, torch.tensor(targets)[:, None]).sum().item()
    return total


@pytest.mark.parametrize(("name", "with_start"), [("export", True), ("run", False)])
def test_the_harness_finds_what_the_logits_say(evaluated, model, tokenizer, name, with_start):
    """With a start token before each text, which is the harness's default, or without."""

    def encode(text):
        return tokenizer(text, add_special_tokens=with_start)["input_ids"]

    model.eval()
    found, right = evaluated[name], 0
    samples = sorted(found["samples"]["choice"], key=lambda sample: sample["doc_id"])
    for sample, question in zip(samples, QUESTIONS, strict=True):
        asked = len(encode(question["question"]))
        ids = [encode(f"{question['question']} {choice}") for choice in question["choices"]]
        expected = [log_likelihood(model, row, asked) for row in ids]
        assert [one for ((one, _),) in sample["resps"]] == pytest.approx(expected, abs=1e-4)
        right += expected.index(max(expected)) == question["answer"]
    assert found["results"]["choice"]["acc,none"] == right / len(QUESTIONS)
    assert 0 < right < len(QUESTIONS), "an accuracy that shows nothing"

    total = sum(log_likelihood(model, [tokenizer.eos_token_id, *encode(text)], 1) for text in TEXTS)
    size = sum(len(text.encode()) for text in TEXTS)
    assert found["results"]["text"]["bits_per_byte,none"] == pytest.approx(-total / size / math.log(2), rel=1e-5)


def test_the_harness_gives_prompts_their_start_token(export, tokenizer):
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=str(export), device="cpu")
    for prompt in ("Once upon", "In 1234, I've  12.5é\n\n"):
        ids = tokenizer(prompt)["input_ids"]
        assert theirs.tok_encode(prompt) == theirs.tok_batch_encode([prompt])[0].tolist()[0] == ids
        assert ids[0] == tokenizer.bos_token_id == theirs.prefix_token_id

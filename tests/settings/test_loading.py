"""An experiment file is checked whole, in one sentence, before anything heavy is imported."""

import ast
import re
import subprocess
import sys
from dataclasses import replace
from enum import Enum
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import transformers

from command_line.run import exit_on_user_error, run_script
from modeling.configuration_kindling import KindlingLlamaConfig
from settings.checks import ConfigError, build
from settings.experiment import REPLICABLE, AlgorithmicExperiment
from settings.fields import read_fields
from settings.help import describe_sections
from settings.loading import load_experiment
from settings.paths import ROOT
from settings.schema import KINDS, section_fields
from training.preflight.arguments import training_arguments
from training.preflight.setting_rules import check_each

EXAMPLE = """
model: {hidden_size: 64, norm: layernorm}
data: {source: fables}
training: {learning_rate: 3e-4, max_steps: 1e3}
"""


@pytest.fixture
def example(tmp_path):
    path = tmp_path / "example.yaml"
    path.write_text(EXAMPLE)
    return str(path)


def test_values_arrive_as_their_types(example):
    experiment = load_experiment(example, ["training.adam_beta1=1", "model.num_key_value_heads=2", "data.seed=7"])
    assert experiment.name == "example"
    assert experiment.training["learning_rate"] == 3e-4
    assert experiment.training["max_steps"] == 1000
    assert isinstance(experiment.training["max_steps"], int)
    assert isinstance(experiment.training["adam_beta1"], float)
    assert experiment.model == {
        "type": "kindling_llama", "hidden_size": 64, "norm": "layernorm", "num_key_value_heads": 2
    }  # fmt: skip
    assert experiment.data.seed == 7
    assert experiment.training["output_dir"] == "runs/example"


@pytest.mark.parametrize(
    "text", ["off", "{a", "Once upon: a time", "", "=", "12", "costs ${x}", "${", r"a \${b} \\${c"]
)
def test_text_arrives_as_it_is_typed(example, text):
    assert load_experiment(example, [f"sample.prompt={text}"]).sample.prompt == text


def test_a_resolved_experiment_loads_as_itself(example, tmp_path):
    from training.reporting.provenance import write_settings

    experiment = load_experiment(example, ["sample.prompt=Once for ${5}"])
    write_settings(experiment.as_dict(), tmp_path)
    (tmp_path / "experiment.yaml").rename(tmp_path / "again.yaml")
    assert load_experiment(str(tmp_path / "again.yaml"), []).as_dict() == experiment.as_dict()


def test_a_mapping_is_replaced_and_a_key_in_it_set(tmp_path):
    path = tmp_path / "wsd.yaml"
    path.write_text("training: {lr_scheduler_kwargs: {num_decay_steps: 5, decay_type: linear}}\ndata:\n")
    whole = load_experiment(str(path), ["training.lr_scheduler_kwargs={power: 2.0}", "data.seed=3"])
    assert whole.training["lr_scheduler_kwargs"] == {"power": 2.0}
    assert whole.data.seed == 3
    part = load_experiment(str(path), ["training.lr_scheduler_kwargs.num_decay_steps=7"])
    assert part.training["lr_scheduler_kwargs"] == {"num_decay_steps": 7, "decay_type": "linear"}
    assert load_experiment(str(path), ["training.lr_scheduler_kwargs=null"]).training["lr_scheduler_kwargs"] is None


def test_an_override_that_replicas_would_undo_is_refused(tmp_path):
    path = tmp_path / "replicas.yaml"
    path.write_text("training: {seed: 3}\nreplicas: {training: {seed: [0, 1]}}\n")
    with pytest.raises(ConfigError) as error:
        load_experiment(str(path), ["training.seed=7"], AlgorithmicExperiment)
    assert str(error.value) == (
        "training.seed=7 has no effect, because replicas.training.seed=[0, 1] replaces it; "
        "give replicas.training.seed=[7]"
    )
    for override in ("training.weight_decay=7", "replicas.training.seed=[7]"):
        load_experiment(str(path), [override], AlgorithmicExperiment)
    assert (
        load_experiment(str(path), ["training.seed=7", "replicas.training=null"], AlgorithmicExperiment).training[
            "seed"
        ]
        == 7
    )


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("training.lerning_rate=1", "did you mean learning_rate?"),
        ("model.hiden_size=3", "did you mean hidden_size?"),
        ("tokenizer.vocab=3", "did you mean vocab_size?"),
        ("data.sauce=x", "did you mean source?"),
        ("sample.promt=x", "did you mean prompt?"),
        ("modle.norm=none", "did you mean model?"),
        ("model.norm=batchnorm", "it takes rmsnorm|layernorm|none"),
        ("model.hidden_size=wide", "it takes int"),
        ("model.hidden_size=1.5", "it takes int"),
        ("model.bias=1", "it takes bool"),
        ("model.type=gpt2", "it takes kindling_llama|kindling_gpt"),
        ("model.eos_token_id=3", "is set from the tokenizer"),
        ("training.learning_rate=fast", "it takes float"),
        ("training.bf16=perhaps", "it takes bool"),
        ("training.max_steps=.inf", "it takes int"),
        ("data.layout=rows", "it takes packed|documents"),
        ("data.context_length=1", "must be at least 2"),
        ("data.validation_documents=0", "must be at least 1"),
        ("data.mask_first_n=-1", "must be at least 0"),
        ("sample.temperature=-1", "must be at least 0"),
        ("tokenizer.vocab_size=257", "must be at least 258"),
        ("data.mask_up_to==", "needs data.layout=documents"),
        ("tokenizer.kind=pretrained", "give a path with kind=pretrained"),
        ("tokenizer.path=somewhere", "give a path with kind=pretrained"),
        ("model=7", "'model=7' is not an override"),
        ("learning_rate", "is not an override"),
    ],
)
def test_mistakes_are_one_sentence(example, override, complaint):
    with pytest.raises(ConfigError) as error:
        load_experiment(example, [override])
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("model: [1, 2]", "write keys and values beneath it"),
        ("model: {a: ", "is not valid YAML"),
        ("just words", "just words is not a section"),
        ("- a\n- b", "holds no sections"),
        ("", "holds no sections"),
        ("# only a comment\n", "holds no sections"),
        ("5", "holds no sections"),
        ("model: 0", "write keys and values beneath it"),
        (3000 * "[", "bad.yaml "),  # OmegaConf 2.3 is out of depth before it can say that a bracket is missing
        (3000 * "[" + 3000 * "]", "holds no sections"),
        ("model: {hidden_size: '${nope}'}", "is not valid YAML: Interpolation key 'nope' not found"),
    ],
    ids=lambda value: value[:12],
)
@pytest.mark.parametrize("overrides", [[], ["model.norm=none"]])
def test_a_file_that_is_no_experiment_is_refused(tmp_path, text, complaint, overrides):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_experiment(str(tmp_path / "bad.yaml"), overrides)
    assert complaint in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="there is no experiment file"):
        load_experiment(str(tmp_path / "none.yaml"), [])


def test_a_file_that_cannot_be_read_is_named(tmp_path, example, monkeypatch):
    with pytest.raises(ConfigError, match=r"xxx\.\.\. cannot be read: File name too long; give another"):
        load_experiment(5000 * "x", [])
    with pytest.raises(ConfigError, match="is a folder; give the experiment file in it"):
        load_experiment(str(tmp_path), [])
    refusal = PermissionError(13, "Permission denied")
    monkeypatch.setattr(Path, "read_text", Mock(side_effect=refusal))
    with pytest.raises(ConfigError, match=r"example\.yaml cannot be read: Permission denied; give another"):
        load_experiment(example, [])


def test_what_a_file_says_in_vain_is_no_mistake(tmp_path):
    """An override may have taken its effect, and may be taken back."""
    (tmp_path / "muon.yaml").write_text("optimizer: {kind: muon, muon_momentum: 0.9}\ntraining: {eval_steps: 3}\n")
    load_experiment(str(tmp_path / "muon.yaml"), ["optimizer.kind=adamw", "training.eval_strategy=no"])


class Failing(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise ConfigError("what was given, what is allowed, what to do")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_is_one_sentence_from_a_loaders_worker_too(capsys, workers):
    with pytest.raises(SystemExit) as stop, exit_on_user_error("train_lm.py"):
        list(torch.utils.data.DataLoader(Failing(), num_workers=workers))
    assert stop.value.code == 2
    assert capsys.readouterr().err == "train_lm.py: what was given, what is allowed, what to do\n"


def test_a_short_list_of_settings_is_said_to_be_whole(example):
    with pytest.raises(ConfigError, match=r"resume\.stop is not a setting; give one of extend, allow, decay_from$"):
        load_experiment(example, ["resume.stop=1"])
    with pytest.raises(ConfigError, match=r"model\.zzz is not a setting; give one of path, preset, depth, .*, \.\.\.$"):
        load_experiment(example, ["model.zzz=1"])


@pytest.mark.parametrize("usage", ["python -m data_prep.tokens CONFIG", "python train_lm.py CONFIG", ""])
def test_a_command_names_itself_as_it_is_started(monkeypatch, capsys, usage):
    def mistake(*_):
        raise ConfigError("wrong")

    monkeypatch.setattr("sys.argv", ["/somewhere/tokens.py", "a.yaml"])
    with pytest.raises(SystemExit):
        run_script(f"What it does.\n\nusage: {usage} [section.key=value ...]\n", mistake)
    name = {"-m": "data_prep.tokens", "train_lm.py": "train_lm.py"}.get((usage.split() or [0, 0])[1], "tokens.py")
    assert capsys.readouterr().err == f"{name}: wrong\n"


def test_a_constructors_complaint_is_one_sentence():
    with pytest.raises(
        ConfigError, match=r"^model: num_attention_heads=7 does not divide hidden_size=64; choose one of 1"
    ):
        build(KindlingLlamaConfig, "model", {"hidden_size": 64, "num_attention_heads": 7})


def test_every_setting_has_a_meaning_and_a_line_of_help():
    text = describe_sections()
    assert describe_sections() == text
    for section in ("model", "tokenizer", "data", "sample", "training"):
        for name, field in section_fields(section).items():
            assert f"  {name}  (" in text
            assert field.meaning, f"{section}.{name} has no line of meaning"


def test_folders_of_replicas_have_names_that_fit():
    lists = {section: {key: [0.1234567890123456] for key in keys} for section, keys in REPLICABLE.items()}
    lists["training"]["seed"] = [0, 1]
    fast = load_experiment(str(ROOT / "configs/algorithmic/fast.yaml"), [], AlgorithmicExperiment)
    names = [Path(one.training["output_dir"]).name for one in replace(fast, replicas=lists).replicated()]
    assert len(set(names)) == 2
    assert {len(name) for name in names} == {200}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def plain(request, tmp_path):
    """An experiment of each kind that says next to nothing."""
    (tmp_path / "plain.yaml").write_text("training: {use_cpu: true}")
    return load_experiment(str(tmp_path / "plain.yaml"), [], request.param)


def test_help_marks_what_is_refused_and_says_why(plain):
    """All that is refused whatever its value, and nothing else."""
    kind = type(plain)
    text, fields = describe_sections(kind), section_fields("training", kind)
    settings = [" ".join(setting.split()) for setting in re.split(r"\n(?=  \w)", text)]
    marked = {setting.split()[0]: setting for setting in settings if ", not supported)" in setting}
    assert marked.keys() == kind.unsupported.keys() & fields.keys()
    for name, why in marked.items():
        assert f", not supported) Not supported: {kind.unsupported[name]}." in why
        with pytest.raises(ConfigError, match=rf"^training\.{name}.* is not supported: .*; leave it out$"):
            check_each({name: "other"}, kind)
    check_each({name: field.default for name, field in fields.items() if name != "num_train_epochs"}, kind)


def test_help_has_the_defaults_that_a_run_has(plain):
    """Or words, where they are chosen; null leaves it to transformers."""
    args, kind = training_arguments(plain), type(plain)
    for name, field in section_fields("training", kind).items():
        now = getattr(args, name)
        now = now.value if isinstance(now, Enum) else now
        alike = field.default is None or now == field.default or (now, field.default) in (([], "none"), ([], ""))
        assert alike or f"training.{name}" in kind.chosen or name == "resume_from_checkpoint", name
    lines = describe_sections(kind).splitlines()
    assert any(line.startswith("  bf16  (bool, default true if the hardware") for line in lines)
    assert re.search(r"\n  optim  \(adamw_torch \|[^()]*, default adamw_torch", "\n".join(lines))
    assert max(map(len, lines)) <= 100
    assert not [line for line in lines if re.match(r"  \w.*default ?[,)]", line)]


def test_settings_that_come_and_go_with_transformers_are_no_trouble(example, monkeypatch):
    """A field of ours that a release lacks is left out; one that it has and we do not know is there."""
    package = Path(transformers.__file__).parent
    source = (package / "training_args.py").read_text()
    source = source.replace("    train_sampling_strategy: str", "    brand_new: int")
    source = source.replace("    label_smoothing_factor: float", "    label_smoothing: float")
    monkeypatch.setattr(
        "settings.fields._parse",
        lambda path: ast.parse(source if path.name == "training_args.py" else path.read_text()),
    )
    read_fields.cache_clear()
    try:
        fields, text = section_fields("training"), describe_sections()
        assert "brand_new  (" in text
        assert "train_sampling_strategy" not in fields
        assert "train_sampling_strategy" not in load_experiment(example, []).training
    finally:
        read_fields.cache_clear()


def test_help_imports_nothing_heavy():
    code = (
        "import runpy, sys; sys.argv = ['train_lm.py', '--help']\n"
        "try: runpy.run_path('train_lm.py', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "learning_rate  (float, default 0.001)" in done.stdout

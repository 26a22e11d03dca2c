"""A table of mistakes, through the scripts' own `main`: each is one sentence, and not a thing is done."""

import json
import os
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import train_algorithmic
import train_lm
from data_prep.tokenizer.build import equation_tokenizer
from modeling.configuration_kindling import FAMILIES
from settings.checks import ConfigError
from settings.schema import section_fields

TEXT = """
model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 64}
tokenizer: {vocab_size: 400, train_documents: 100}
data: {source: fables, train_documents: 150, validation_documents: 20, cache_dir: %(here)s/prepared}
training: {output_dir: %(here)s/run, per_device_train_batch_size: 8, max_steps: 4, use_cpu: true, bf16: false}
"""
EQUATIONS = """
model: {type: kindling_gpt, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
data: {operation: divide, modulus: 7, train_fraction: 0.5, validation_fraction: 0.2}
training: {output_dir: %(here)s/run, per_device_train_batch_size: 8, max_steps: 12, use_cpu: true, bf16: false}
"""
START = """
model: {path: ./model}
data: {source: fables, train_documents: 150, validation_documents: 20, cache_dir: %(here)s/prepared}
training: {output_dir: %(here)s/run, per_device_train_batch_size: 8, max_steps: 4, use_cpu: true, bf16: false}
"""
SCRIPTS = {"lm": (train_lm.main, TEXT), "algorithmic": (train_algorithmic.main, EQUATIONS)}

BEST = "training.load_best_model_at_end=true"
EACH_TWO_STEPS = "training.eval_steps=2; training.save_steps=2"
BY_EPOCHS = "training.max_steps=-1"
SPARING = "training.gradient_checkpointing=true; training.gradient_checkpointing_kwargs"
BEST_SAVED = "training.save_strategy=best"

# Kinds of schedule with options, and what is wrong with these.
SCHEDULES = [
    ("polynomial", "{power: abc}", "give kwargs that it has"),
    ("cosine", "{num_cycles: abc}", "could not convert string to float"),
    ("cosine", "{num_cycles: .nan}", "num_cycles=nan is not a finite number of at least 0"),
    ("inverse_sqrt", "{timescale: 0}", "division by zero"),
    ("cosine_with_min_lr", "{min_lr_rate: abc}", "give kwargs that it has"),
    ("cosine_with_min_lr", "{min_lr: -1}", "min_lr=-1 is not a finite number of at least 0"),
    ("warmup_stable_decay", "{num_decay_steps: -1}", "num_decay_steps=-1 is not a number of steps"),
    ("warmup_stable_decay", "{num_decay_steps: 1.5}", "num_decay_steps=1.5 is not a number of steps"),
    ("warmup_stable_decay", "{num_decay_steps: two}", "num_decay_steps=two is not a number of steps"),
    ("reduce_lr_on_plateau", "{patience: abc}", "give kwargs that it has"),
    ("greedy", "{factor: abc}", "give kwargs that it has"),
]

# What is given, and what is said: the setting with its value, and what is allowed or what to do.
OF_TEXT = [
    # keys that are none
    ("training.lerning_rate=1", "training.lerning_rate is not a setting", "did you mean learning_rate?"),
    ("model.num_layers=3", "model.num_layers is not a setting", "did you mean num_hidden_layers?"),
    ("data.context_lenght=32", "data.context_lenght is not a setting", "did you mean context_length?"),
    ("tokenizer.vocabsize=500", "tokenizer.vocabsize is not a setting", "did you mean vocab_size?"),
    ("optimizer.muon_momentun=0.9", "optimizer.muon_momentun is not a setting", "did you mean muon_momentum?"),
    ("sample.temprature=1", "sample.temprature is not a setting", "did you mean temperature?"),
    ("card.licence=mit", "card.licence is not a setting", "did you mean license?"),
    ("optimiser.kind=muon", "optimiser is not a section", "did you mean optimizer?"),
    ("evaluation.evals_per_decade=1", "evaluation is not a section of train_lm.py", "give one of model, data"),
    ("training.max_steps.x=3", "training.max_steps={'x': 3}", "it takes int"),
    ("training.batch_size=8", "training.batch_size is not a setting", "did you mean per_device_train_batch_size?"),
    ("training.lr=1e-3", "training.lr is not a setting", "did you mean learning_rate?"),
    ("training.epochs=3", "training.epochs is not a setting", "did you mean num_train_epochs?"),
    ("training.steps=3", "training.steps is not a setting", "did you mean max_steps?"),
    ("training.logging_dir=x", "training.logging_dir is not a setting", "did you mean output_dir?"),
    ("training.overwrite_output_dir=true", "overwrite_output_dir is not a setting", "did you mean output_dir?"),
    ("model.n_layer=3", "model.n_layer is not a setting", "did you mean num_hidden_layers?"),
    # parts of a recipe
    ("averaging.ema=0", "averaging.ema=0.0 is out of range", "above 0 and at most 1"),
    ("averaging.tail=1.5", "averaging.tail=1.5 is out of range", "above 0 and at most 1"),
    ("averaging.tail=0.3", "averaging.tail=0.3 of 4 steps is less than two", "raise it, or leave it out"),
    ("averaging.save=ema", "averaging.save=ema needs averaging.ema", "give 0.1, say"),
    ("averaging.save=mean", "averaging.save='mean' is not allowed", "it takes raw|ema|tail"),
    (f"averaging.ema=0.9; averaging.save=ema; training.save_only_model=true; {EACH_TWO_STEPS}; {BEST}",
     "averaging.save=ema and training.load_best_model_at_end=True need the averages", "leave out one of them"),
    ("averaging.tail=0.9; training.metric_for_best_model=tail_loss", "tail_loss is not measured", "one of loss, perp"),
    ("model.final_logit_softcapping=0", "final_logit_softcapping=0.0 must be positive", "and finite"),
    ("model.logit_softcap=30", "model.logit_softcap is not a setting", "did you mean final_logit_softcapping?"),
    ("checkpoints.save_tokens=[]", "checkpoints.save_tokens=[] needs whole numbers of tokens", "as in [1e6, 2e6]"),
    ("checkpoints.save_tokens=[1e6,1e6]", "has a number twice", "leave one of them out"),
    ("checkpoints.save_tokens={main: 1e6}", "has the name 'main'", "that is not main"),
    ("checkpoints.save_tokens=[1e6]; checkpoints.saves_per_decade=3", "exclude each other", "leave out one of them"),
    ("checkpoints.saves_per_decade=21", "checkpoints.saves_per_decade=21 is too large", "at most 20"),
    ("schedules.weight_decay={0: 1, 2: 0}", "schedules.weight_decay={0: 1, 2: 0} is not a schedule", "at fractions"),
    ("schedules.dropout={0: 2}", "schedules.dropout={0: 2} is not a schedule", "multiples from 0 to 1 at fractions"),
    ("schedules.weight_decay={}", "schedules.weight_decay={} is not a schedule", "as in {0: 1, 1: 0}"),
    ("schedules.dropout={0: 0, 1: 1}", "schedules.dropout has no effect with model.hidden_dropout=0", "leave the "),
    ("schedules.weight_decay={0: 1}; training.weight_decay=0", "schedules.weight_decay has no effect", "give that, or"),
    ("loss.z_loss=-1e-4", "loss.z_loss=-0.0001 is too small", "at least 0"),
    # what would change nothing
    ("optimizer.muon_momentum=0.5", "optimizer.muon_momentum=0.5 has no effect with optimizer.kind=adamw",
     "give optimizer.kind=muon"),
    ("optimizer.grokfast_alpha=0.5", "optimizer.grokfast_alpha=0.5 has no effect with optimizer.grokfast_lambda=0.0",
     "give optimizer.grokfast_lambda"),
    ("model.mup_base_width=16", "model.mup_base_width=16 has no effect with model.parametrization=",
     "give model.parametrization=mup"),
    ("model.parametrization=mup", "parametrization=mup needs mup_base_width", "give it, or leave parametrization out"),
    ("model.parametrization=mup; model.mup_base_width=16; training.optim=sgd", "training.optim=sgd has no learning",
     "leave one of them out"),
    ("tokenizer.kind=characters; tokenizer.vocab_size=500", "tokenizer.vocab_size=500 has no effect with",
     "give tokenizer.kind=bpe"),
    ("tokenizer.kind=pretrained; tokenizer.path=gpt2; tokenizer.train_bytes=5", "tokenizer.train_bytes=5 has no effect",
     "leave it out"),
    ("data.mixture={fables: 1}; data.source=c4", "data.source=c4 has no effect with data.mixture={'fables': 1}",
     "give data.mixture=null"),
    ("data.subset=en", "data.subset=en has no effect on fables", "leave it out"),
    ("data.source=FILE.txt; data.revision=main", "data.revision=main has no effect on file.txt", "leave it out"),
    ("data.source=FILE.txt; data.seed=5", "data.seed=5 has no effect on file.txt", "leave it out"),
    ("training.eval_strategy=no; training.eval_steps=2", "training.eval_steps=2 has no effect with training.eval_str",
     "give training.eval_strategy=steps"),
    ("training.save_strategy=no; training.save_steps=2", "training.save_steps=2 has no effect with training.save_str",
     "give training.save_strategy=steps"),
    # values that are of no use
    ("model.hidden_size=${nope}", "'model.hidden_size=${nope}' refers to another setting", "write the value itself"),
    ("training.max_steps=[[[", "'training.max_steps=[[[' is not valid YAML after the =", ""),
    ("resume.allow=[1]", "resume.allow=[1] has 1", "which is not the name of a setting"),
    ("sample.temperature=1e-300", "sample.temperature=1e-300 is too small", "give 0 (greedy decoding), or at least"),
    ("card.license=", "card.license= is empty", "or leave it out"),
    ("card.license=[mit]", "card.license=[mit] is a list", "give mit"),
    ("model.path=", "model.path= is empty", "give the folder or Hub id"),
    ("tokenizer.kind=pretrained; tokenizer.path=", "tokenizer.path is empty", "give the folder or Hub id"),
    ("training.learning_rate=.nan", "training.learning_rate=nan", "it takes float, which must be finite"),
    ("training.learning_rate=.inf", "training.learning_rate=inf", "it takes float, which must be finite"),
    (f"training.learning_rate=1{400 * '0'}", "training.learning_rate=1000", "it takes float"),
    ("model.initializer_range=.inf", "model.initializer_range=inf", "it takes float, which must be finite"),
    ("optimizer.muon_learning_rate=.nan", "optimizer.muon_learning_rate=nan", "it takes float, which must be finite"),
    ("sample.temperature=.nan", "sample.temperature=nan", "it takes float, which must be finite"),
    ("training.optim=adamm", "training.optim='adamm'", "it takes adamw_torch|"),
    ("training.lr_scheduler_type=sawtooth", "training.lr_scheduler_type='sawtooth'", "it takes linear|cosine|"),
    ("training.eval_strategy=sometimes", "training.eval_strategy='sometimes'", "it takes no|steps|epoch"),
    ("training.save_strategy=sometimes", "training.save_strategy='sometimes'", "it takes no|steps|epoch|best"),
    ("training.hub_strategy=sometimes", "training.hub_strategy='sometimes'", "it takes end|every_save|"),
    ("training.ddp_backend=pigeon", "training.ddp_backend='pigeon'", "it takes nccl|gloo|"),
    ("training.log_level=loud", "training.log_level=loud", "there are detail, debug, info"),
    ("training.torch_compile_mode=fast", "training.torch_compile_mode=fast", "there are default, "),
    ("training.torch_compile_backend=gcc", "training.torch_compile_backend=gcc", "there are eager, aot_eager"),
    ("training.debug=everything", "training.debug=everything", "there are underflow_overflow"),
    # ranges
    ("training.learning_rate=-1", "training.learning_rate=-1.0", "it must be at least 0"),
    ("training.weight_decay=-0.1", "training.weight_decay=-0.1", "it must be at least 0"),
    ("training.adam_epsilon=-1e-8", "training.adam_epsilon=-1e-08", "it must be at least 0"),
    ("training.adam_beta1=1", "training.adam_beta1=1.0", "it must be at least 0, below 1"),
    ("training.neftune_noise_alpha=-1", "training.neftune_noise_alpha=-1.0", "it must be at least 0"),
    ("training.max_steps=0", "training.max_steps=0", "it must be at least 1, or -1 to use training.num_train_epochs"),
    ("training.max_steps=-5", "training.max_steps=-5", "it must be at least 1, or -1 to use training.num_train_epochs"),
    (f"training.num_train_epochs=0; {BY_EPOCHS}", "training.num_train_epochs=0.0", "it must be above 0"),
    (f"training.num_train_epochs=-1; {BY_EPOCHS}", "training.num_train_epochs=-1.0", "it must be above 0"),
    ("training.per_device_train_batch_size=0", "training.per_device_train_batch_size=0", "it must be at least 1"),
    ("training.per_device_eval_batch_size=0", "training.per_device_eval_batch_size=0", "it must be at least 1"),
    ("training.gradient_accumulation_steps=0", "training.gradient_accumulation_steps=0", "it must be at least 1"),
    ("training.eval_accumulation_steps=0", "training.eval_accumulation_steps=0", "it must be at least 1"),
    ("training.torch_empty_cache_steps=0", "training.torch_empty_cache_steps=0", "it must be at least 1"),
    ("training.dataloader_num_workers=-1", "training.dataloader_num_workers=-1", "it must be at least 0"),
    ("training.ddp_timeout=0", "training.ddp_timeout=0", "it must be at least 1"),
    ("training.data_seed=-1", "training.data_seed=-1", "it must be at least 0 and below 2^32"),
    ("training.seed=4294967296", "training.seed=4294967296", "it must be at least 0 and below 2^32"),
    ("training.logging_steps=0", "training.logging_steps=0.0",
     "it must be above 0; for never, give the strategy `no`"),
    ("training.eval_steps=0", "training.eval_steps=0.0", "it must be above 0; for never, give the strategy `no`"),
    ("training.save_steps=-1", "training.save_steps=-1.0", "it must be above 0; for never, give the strategy `no`"),
    ("training.eval_steps=2.5", "training.eval_steps=2.5", "give a whole number, or one below 1"),
    ("training.warmup_steps=1.5", "training.warmup_steps=1.5", "give a whole number, or one below 1"),
    ("model.hidden_dropout=1.5", "hidden_dropout=1.5", "must be at least 0 and below 1"),
    ("model.attention_dropout=-0.1", "attention_dropout=-0.1", "must be at least 0 and below 1"),
    ("model.norm_eps=0", "norm_eps=0.0", "must be positive"),
    ("model.num_hidden_layers=0", "num_hidden_layers=0", "must be at least 1"),
    ("model.hidden_size=1e9", "parameters, which take", "lower model.hidden_size"),
    ("model.vocab_size=1e12", "parameters, which take", "or another size"),
    ("tokenizer.vocab_size=1e12", "tokenizer.vocab_size=1000000000000", "it must be at most 4,294,967,295"),
    ("tokenizer.train_bytes=0", "tokenizer.train_bytes=0", "it must be at least 1"),
    ("data.bad_records=1.5", "data.bad_records=1.5", "it must be at most 1"),
    ("optimizer.muon_momentum=1", "optimizer.muon_momentum=1.0", "it must be at least 0 and below 1"),
    ("optimizer.grokfast_lambda=-1", "optimizer.grokfast_lambda=-1.0", "it must be at least 0"),
    ("sample.seed=-1", "sample.seed=-1", "it must be at least 0"),
    ("sample.seed=1e30", "sample.seed=1000000000000000019884624838656", "it must be at most 4,294,967,295"),
    ("guard.window=1e30", "guard.window=1000000000000000019884624838656", "it must be at most 1,000,000"),
    ("data.train_documents=1e30", "data.train_documents=1000000000000000019884624838656", "it must be at most"),
    ("data.context_length=1e9", "data.context_length=1000000000", "it must be at most 16,777,216"),
    ("model.max_position_embeddings=1e9", "max_position_embeddings=1000000000", "at most 16,777,216"),
    ("sample.max_new_tokens=0", "sample.max_new_tokens=0", "it must be at least 1"),
    ("training.max_steps=1e30", "training.max_steps=1000000000000000019884624838656", "at most 1,000,000,000"),
    (f"training.num_train_epochs=1e300; {BY_EPOCHS}", "training.num_train_epochs=1e+300", "at most 1,000,000"),
    ("training.gradient_accumulation_steps=1e18", "training.gradient_accumulation_steps=1000000", "at most 100,000"),
    ("training.per_device_train_batch_size=1e9", "training.per_device_train_batch_size=1000000000", "at most"),
    ("training.dataloader_num_workers=100000", "training.dataloader_num_workers=100000", "at most 1,000"),
    ("training.ddp_timeout=1e15", "training.ddp_timeout=1000000000000000", "at most 1,000,000,000"),
    # settings of the model and of the data that do not go together
    ("model.num_key_value_heads=3", "num_key_value_heads=3 does not divide num_attention_heads=2",
     "choose one of 1, 2"),
    ("model.head_dim=15", "head_dim=15 is odd", "choose an even head_dim or position=learned"),
    ("model.max_position_embeddings=1", "model.max_position_embeddings=1", "it must be at least 2"),
    ("data.mask_first_n=63", "data.mask_first_n=63", "raise the first or lower the second"),
    ("data.mask_first_n=20; data.context_length=20", "data.mask_first_n=20",
     "masks all of data.context_length=20"),
    ("data.source=", "data.source is empty", "leave it out, or give a value"),
    ("data.cache_dir=FILE", "data.cache_dir=", "cannot be written to: Not a directory; give another folder"),
    ("data.validation_source=nowhere.txt", "nowhere.txt is neither a known source nor", "give one of fables"),
    ("data.validation_source=FILE", "file holds file", "supported files are .txt, "),
    ("data.source=FILE", "file holds file", "supported files are .txt, "),
    ("data.mixture={fabels: 1}", "fabels is neither a known source nor an existing file", "did you mean fables?"),
    ("data.mixture={fables: -1, c4: 1}", "data.mixture={'fables': -1, 'c4': 1}", "needs weights above 0"),
    ("data.mixture={fables: .inf, c4: 1}", "data.mixture={'fables': inf, 'c4': 1}", "needs weights above 0"),
    ("data.mixture={fables: true}", "data.mixture={'fables': True}", "needs weights above 0"),
    ("data.streaming=true; training.max_steps=-1", "data.streaming=true", "needs training.max_steps"),
    ("data.streaming=true; data.layout=documents", "data.streaming=true", "needs data.layout=packed"),
    ("tokenizer.kind=pretrained; tokenizer.path=./nowhere",
     "tokenizer.path=./nowhere cannot be loaded: there is no folder ./nowhere", "give the folder or Hub id of one"),
    ("tokenizer.kind=pretrained; tokenizer.path=FILE", "is a file, not a folder", "give the folder or Hub id of one"),
    # what a tokenizer makes of them is known beforehand
    ("tokenizer.kind=characters; sample.prompt=" + 64 * "a", "sample.prompt has 65 tokens and the model 64", "shorten"),
    ("tokenizer.kind=numbers; sample.prompt=" + 64 * "12 ", "sample.prompt has 65 tokens and the model 64", "shorten"),
    ("tokenizer.kind=characters; data.layout=documents; data.mask_up_to=QQ", "data.mask_up_to='QQ' is 2 tokens",
     "give text that is a single token"),
    # settings of training that do not go together, or cannot be had
    ("training.num_train_epochs=3; training.max_steps=4", "training.max_steps=4 and training.num_train_epochs=3",
     "give one of them"),
    ("budget.tokens=1e6; training.max_steps=4", "training.max_steps=4 and budget.tokens=1000000.0", "give one of them"),
    ("budget.tokens=0", "budget.tokens=0.0 is too small", "it must be above 0"),
    ("budget.tokens=.nan", "budget.tokens=nan is not allowed", "must be finite"),
    ("budget.batch_tokens=1024; data.layout=documents", "budget.batch_tokens=1024 counts the tokens of full windows",
     "set training.per_device_train_batch_size instead"),
    ("budget.batch_tokens=1024; training.gradient_accumulation_steps=2",
     "training.gradient_accumulation_steps=2 follows from budget.batch_tokens=1024", "leave one of them out"),
    ("training.lr_scheduler_type=cosine; training.lr_scheduler_kwargs={power: 2}",
     "training.lr_scheduler_kwargs={'power': 2}", "give kwargs that it has, or null"),
    *((f"training.lr_scheduler_type={kind}; training.lr_scheduler_kwargs={given}", f"={kind} does not work with", why)
      for kind, given, why in SCHEDULES),
    ("training.lr_scheduler_kwargs=power", "training.lr_scheduler_kwargs=power is not a map", "write {num_cycles: 1}"),
    ("training.lr_scheduler_kwargs='[1]'", "training.lr_scheduler_kwargs=[1] is not a map", "write {num_cycles: 1}"),
    ("""training.lr_scheduler_kwargs='{"a": 1'""", 'lr_scheduler_kwargs={"a": 1 is not a map', "write {num_cycles: 1}"),
    ("training.lr_scheduler_type=reduce_lr_on_plateau; training.eval_strategy=no", "reduce_lr_on_plateau",
     "requires an eval strategy"),
    ("training.bf16=true; training.fp16=true", "training.fp16=True and training.bf16=True", "leave out one of them"),
    ("training.fp16=true", "training.fp16=True and training.use_cpu=True", "leave out one of them"),
    ("training.dataloader_persistent_workers=true", "training.dataloader_persistent_workers=True",
     "give training.dataloader_num_workers"),
    ("training.dataloader_prefetch_factor=2", "training.dataloader_prefetch_factor=2",
     "give training.dataloader_num_workers"),
    ("training.dataloader_multiprocessing_context=fork", "training.dataloader_multiprocessing_context=fork",
     "give training.dataloader_num_workers"),
    ("training.dataloader_prefetch_factor=-2; training.dataloader_num_workers=1",
     "training.dataloader_prefetch_factor=-2", "it must be at least 1"),
    (f"{BEST}; training.eval_strategy=no", "training.eval_strategy=no is not training.save_strategy=steps",
     "make them the same"),
    (f"{BEST}; training.save_strategy=epoch", "training.eval_strategy=steps is not training.save_strategy=epoch",
     "make them the same"),
    (f"{BEST}; training.save_steps=3; training.eval_steps=2", "training.save_steps=3.0 is no multiple of",
     "make it one"),
    (f"{BEST}; training.save_steps=0.5; training.eval_steps=2", "training.save_steps=0.5 is no multiple",
     "make it one"),
    (f"{BEST}; training.metric_for_best_model=accuracy", "training.metric_for_best_model=accuracy is not measured",
     "give one of loss, perplexity, bits_per_byte"),
    (f"{BEST}; training.greater_is_better=true", "training.greater_is_better=True", "leave it out"),
    ("training.metric_for_best_model=los", "training.metric_for_best_model=los is not measured",
     "give one of loss, perplexity, bits_per_byte"),
    ("training.metric_for_best_model=", "training.metric_for_best_model= is not measured", "give one of loss"),
    ("training.greater_is_better=true", "training.greater_is_better=True", "leave it out"),
    ("training.debug=[x]", "training.debug=['x'] is not a debug option", "there are underflow_overflow"),
    (BEST_SAVED, BEST_SAVED, "training.metric_for_best_model=loss"),
    (f"{BEST_SAVED}; training.metric_for_best_model=loss; training.eval_strategy=no", BEST_SAVED,
     "give training.eval_strategy=steps (it is no)"),
    ("training.optim=galore_adamw", "training.optim=galore_adamw", "install `galore_torch`"),
    ("training.optim=lomo", "training.optim=lomo", "install `lomo_optim`"),
    ("training.optim=sgd; training.optim_args=momentum", "training.optim_args=momentum", "write key=value"),
    ("training.optim_args=123", "training.optim_args=123 is not a list of options", "write key=value,key=value"),
    ("training.optim=sgd; training.optim_args=momentum=-1", "training.optim_args=momentum=-1", "or leave both out"),
    ("training.optim_args=amsgrad=1", "training.optim_args=amsgrad=1", "it does not use them; or leave both out"),
    ("training.optim=sgd; optimizer.kind=muon", "training.optim=sgd has no effect with optimizer.kind=muon",
     "leave it"),
    ("training.report_to=wandbb", "training.report_to=wandbb", "available are azure_ml"),
    ("training.report_to=[clearml]", "training.report_to=clearml is not installed",
     "install its package, or give none"),
    ("training.label_smoothing_factor=0.1", "training.label_smoothing_factor=0.1 is not supported", "leave it out"),
    ("training.dataloader_drop_last=true", "training.dataloader_drop_last=True is not supported", "leave it out"),
    ("training.ignore_data_skip=true", "training.ignore_data_skip=True is not supported", "leave it out"),
    ("training.auto_find_batch_size=true", "training.auto_find_batch_size=True is not supported", "leave it out"),
    ("training.remove_unused_columns=true", "training.remove_unused_columns=True is not supported", "leave it out"),
    ("training.eval_do_concat_batches=false", "training.eval_do_concat_batches=False is not supported", "leave it out"),
    ("training.batch_eval_metrics=true", "training.batch_eval_metrics=True is not supported", "leave it out"),
    ("training.include_num_input_tokens_seen=true", "training.include_num_input_tokens_seen=True", "always counted"),
    ("training.train_sampling_strategy=group_by_length", "=group_by_length is not supported", "leave it out"),
    ("training.use_liger_kernel=true", "training.use_liger_kernel=True is not supported", "leave it out"),
    ("training.deepspeed=ds.json", "training.deepspeed=ds.json is not supported", "accelerate launch"),
    ("training.parallelism_config={tp_size: 2}", "training.parallelism_config={'tp_size': 2}", "accelerate launch"),
    ("training.accelerator_config={split_batches: true}", "training.accelerator_config={'split_batches': True}",
     "leave it out"),
    ("training.fsdp=full_shard", "training.fsdp=full_shard", "needs several GPUs"),
    ("training.fsdp=true", "training.fsdp=True", "needs several GPUs"),
    ("training.fsdp_config={version: 2}", "training.fsdp_config={'version': 2}", "no effect without training.fsdp"),
    ("training.report_to=[none, tensorboard]", "training.report_to=['none', 'tensorboard']", "all or none alone"),
    (f"{SPARING}=nonsense", "gradient_checkpointing_kwargs=nonsense is not a mapping", "{use_reentrant: false}"),
    (f"{SPARING}={{use_reentrant: maybe}}", "use_reentrant='maybe'", "it takes true or false"),
    (f"{SPARING}={{determinism_check: often}}", "{'determinism_check': 'often'} is not allowed; determinism_check", ""),
    ("training.activation_checkpointing=true; training.activation_checkpointing_kwargs={every_n_layers: 0.5}",
     "every_n_layers", "s"),  # what it is said to be depends on the version
    ("training.push_to_hub=true; training.hub_model_id=", "training.hub_model_id= is empty", "give a name"),
    (f"{SPARING}={{reentrant: true}}", "gradient_checkpointing_kwargs has no reentrant", "use_reentrant"),
    # places
    ("training.output_dir=FILE", "file cannot be written to (File exists)", "choose another"),
    ("training.output_dir=FILE/run", "file/run cannot be written to (Not a directory)", "choose another"),
    ("training.output_dir=", "training.output_dir='' is not a path", "give a folder"),
    ("training.output_dir=[a]", "training.output_dir=[a] is a list", "give one folder"),
    ("data.cache_dir=[a]", "data.cache_dir=[a] is a list", "give one folder"),
    ("training.output_dir=~nobody9/x", "there is no home ~nobody9", "give the full path"),
    ("data.cache_dir=here; training.output_dir=./here", "output_dir=here is also data.cache_dir", "choose another"),
    ("training.resume_from_checkpoint=nowhere", "training.resume_from_checkpoint=nowhere is not a folder", "give a"),
]  # fmt: skip

OF_EQUATIONS = [
    ("data.toknes=padded", "data.toknes is not a setting", "did you mean tokens?"),
    ("evaluation.eval_per_decade=3", "evaluation.eval_per_decade is not a setting", "did you mean evals_per_decade?"),
    ("replicas.trianing.seed=[1]", "replicas.trianing is not a section", "did you mean training?"),
    ("replicas.training.sed=[1]", "replicas.training.sed is not a setting that", "did you mean training.seed?"),
    ("tokenizer.kind=bpe", "tokenizer is not a section of train_algorithmic.py", "give one of model, data, training"),
    ("model.path=gpt2", "model.path is not a setting", "give one of type"),
    ("data.train_fraction=.nan", "data.train_fraction=nan", "it takes float, which must be finite"),
    ("data.seed=-1", "the seed of the split is -1 and must be at least 0", "give such a data.seed"),
    ("data.operation=nowhere.py:f", "data.operation=nowhere.py:f", "write FILE.py:FUNCTION"),
    ("data.operation=FILE:f", "file fails with SyntaxError", "fix the file"),
    ("evaluation.evals_per_decade=1e9", "evaluation.evals_per_decade=1000000000", "it must be at most 1,000"),
    ("evaluation.stop_when_grokked=perhaps", "evaluation.stop_when_grokked='perhaps'", "it takes bool"),
    ("replicas.training.seed=[]", "replicas.training.seed=[]", "write [0,1,2]"),
    ("replicas.training.seed=[-1]", "training.seed=-1", "below 2^32"),
    ("replicas.training.learning_rate=[.nan]", "replicas.training.learning_rate=nan", "which must be finite"),
    ("replicas.training.learning_rate=[1,-1]", "training.learning_rate=-1.0", "it must be at least 0"),
    ("replicas.optimizer.muon_momentum=[2]; optimizer.kind=muon", "optimizer.muon_momentum=2.0",
     "it must be at least 0 and below 1"),
    ("replicas.optimizer.muon_learning_rate=[0.1,0.2]", "muon_learning_rate=[0.1, 0.2] has no effect",
     "give optimizer.kind=muon"),
    ("replicas.optimizer.grokfast_alpha=[0.9,0.98]", "grokfast_alpha=[0.9, 0.98] has no effect with",
     "the replicas would be identical"),
    ("training.eval_steps=2", "training.eval_steps=2 has no effect with training.eval_strategy=no", "leave it out"),
    ("guard.window=1e30", "guard.window=1000000000000000019884624838656", "it must be at most 1,000,000"),
    ("replicas.model.initializer_range=[0]", "initializer_range=0.0", "must be positive"),
    ("replicas.model.linear_init=[xavier]", "replicas.model.linear_init='xavier'", "it takes normal|uniform_fan_in"),
    ("training.dataloader_num_workers=-1", "training.dataloader_num_workers=-1", "it must be at least 0"),
    ("training.lr_scheduler_type=reduce_lr_on_plateau; training.eval_strategy=steps; training.eval_steps=4",
     "training.lr_scheduler_type=reduce_lr_on_plateau", "give another"),
    ("training.max_steps=1e30", "training.max_steps=1000000000000000019884624838656", "at most 1,000,000,000"),
    ("training.lr_scheduler_type=polynomial; training.lr_scheduler_kwargs={power: abc}", "=polynomial does not work",
     "or null"),
    ("training.dataloader_multiprocessing_context=fork", "=fork needs workers", "training.dataloader_num_workers"),
    ("training.fp16=true", "training.fp16=True and training.use_cpu=True", "leave out one of them"),
    ("training.fsdp=full_shard", "training.fsdp=full_shard is not supported", "leave it out"),
    ("training.gradient_checkpointing=true", "training.gradient_checkpointing=True is not supported", "leave it"),
    ("training.neftune_noise_alpha=1", "training.neftune_noise_alpha=1.0 is not supported", "leave it out"),
    ("training.remove_unused_columns=true", "training.remove_unused_columns=True is not supported", "leave it out"),
    ("training.report_to=clearml", "training.report_to=clearml is not installed", "install its package, or give none"),
    ("model.hidden_size=1e9", "parameters, which take", "lower model.hidden_size"),
    ("training.output_dir=FILE/run", "file/run cannot be written to (Not a directory)", "choose another"),
]  # fmt: skip

KNOWN = {f"training.{name}" for name in section_fields("training")}
OF_LATER_VERSIONS = {"training.dataloader_multiprocessing_context", "training.activation_checkpointing"} - KNOWN
OF_FORMER_VERSIONS = {"training.logging_dir"} & KNOWN
ROWS = [
    row
    for row in [("lm", *row) for row in OF_TEXT] + [("algorithmic", *row) for row in OF_EQUATIONS]
    if row[1].partition("=")[0] not in OF_LATER_VERSIONS | OF_FORMER_VERSIONS
]


@pytest.fixture
def make_mistake(tmp_path, monkeypatch):
    """A function: script and overrides to the complaint, after a look at what has been left behind."""
    monkeypatch.chdir(tmp_path)  # what would be written to a relative path is seen, too
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "file.txt").write_text("a text")

    def make(script: str, overrides: list[str]) -> str:
        main, settings = (SCRIPTS | {"start": (train_lm.main, START)})[script]
        (tmp_path / "tiny.yaml").write_text(settings % {"here": tmp_path})
        before = everything_in(tmp_path)
        with pytest.raises(ConfigError) as error:
            main(str(tmp_path / "tiny.yaml"), [text.replace("FILE", str(tmp_path / "file")) for text in overrides])
        assert everything_in(tmp_path) == before
        return str(error.value)

    return make


def everything_in(folder: Path) -> dict[str, bytes | None]:
    """Files with their contents, and folders."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    ("script", "overrides", "what", "remedy"), ROWS, ids=[f"{row[0]} {row[1]}"[:90] for row in ROWS]
)
def test_a_mistake_is_one_sentence_and_nothing_is_done(make_mistake, script, overrides, what, remedy):
    complaint = make_mistake(script, overrides.split("; "))
    assert what in complaint
    assert remedy in complaint
    assert "\n" not in complaint


@pytest.fixture
def sums(tmp_path):
    """A file of short documents, of which two have no answer."""
    lines = [json.dumps({"text": f"{number}+1={number + 1}", "kind": number % 2}) for number in range(40)]
    (tmp_path / "sums.jsonl").write_text("\n".join([*lines, '{"text": "3+3"}', '{"text": "4+4"}']))
    return f"data.source={tmp_path / 'sums.jsonl'}; tokenizer.kind=characters; data.layout=documents"


@pytest.mark.parametrize(
    ("override", "what", "remedy"),
    [
        (
            "data.mask_first_n=30",
            "data.mask_first_n=30 leaves no target in 22 training documents, the longest of which has 9",
            "l",
        ),
        (
            "data.mask_up_to==",
            "data.mask_up_to='=' is missing from 2 of 22 training documents, one of which begins '<|",
            "en",
        ),
        ("training.metric_for_best_model=loss/x", "loss/x is not measured", "; there are no groups"),
        ("training.metric_for_best_model=loss/x; data.group_field=kind", "is not measured", "; the groups are 0, 1"),
        ("training.metric_for_best_model=bits_per_byte; data.mask_first_n=3", "carries no loss", "give loss or perpl"),
    ],
)
def test_what_only_the_data_tell_is_told_before_a_run_begins(monkeypatch, tmp_path, sums, override, what, remedy):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TEXT % {"here": tmp_path})
    with pytest.raises(ConfigError) as error:
        train_lm.main(str(tmp_path / "tiny.yaml"), f"{sums}; {override}".split("; "))
    assert what in str(error.value)
    assert remedy in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def checkpoint(tmp_path):
    """A model of 32 dimensions and 12 tokens, with its tokenizer."""
    tokenizer = equation_tokenizer("characters", "+", 9)
    tokenizer.save_pretrained(tmp_path / "model")
    config = FAMILIES["kindling_gpt"](
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=len(tokenizer), bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_position_embeddings=64,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def widen(path: Path):
    about = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(about | {"hidden_size": 64, "head_dim": 32, "intermediate_size": 256}))


def empty(path: Path):
    for file in path.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: os.truncate(path / "model.safetensors", 2000), "does not load: Error while deserializing header"),
        (lambda path: os.truncate(path / "model.safetensors", 0), "does not load: Error while deserializing header"),
        (widen, "do not match its config.json"),
        (shutil.rmtree, "model.path: there is no folder ./model"),
        (empty, "model.path: ./model holds neither a model nor a tokenizer"),
        (lambda path: shutil.rmtree(path) or path.write_text(""), "model.path: ./model is a file, not a folder"),
    ],
)
def test_a_broken_checkpoint_is_told_before_any_data_are_read(make_mistake, checkpoint, capfd, damage, complaint):
    damage(checkpoint)
    said = make_mistake("start", [])
    assert complaint in said
    assert "\n" not in said
    assert capfd.readouterr().err == ""


def test_what_a_pretrained_tokenizer_makes_of_it_is_told_before_any_data_are_read(make_mistake, checkpoint):
    given = ["tokenizer.kind=pretrained", f"tokenizer.path={checkpoint}"]
    small = make_mistake("lm", [*given, "model.vocab_size=11"])
    assert "model.vocab_size=11 is smaller than the tokenizer's" in small
    assert "is 4 tokens" in make_mistake("lm", [*given, "data.layout=documents", "data.mask_up_to=1234"])
    assert "sample.prompt has 70 tokens" in make_mistake("lm", [*given, f"sample.prompt={70 * '1'}"])
    (checkpoint / "tokenizer.json").write_text("[]")
    assert f"tokenizer.path={checkpoint} cannot be loaded: " in make_mistake("lm", given)


def test_there_are_enough():
    assert len({row[:2] for row in ROWS}) == len(ROWS) >= 60


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_folder_with_a_run_stays_as_it_was(make_mistake, tmp_path, script):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert "holds a run already" in make_mistake(script, [])
    assert "is not a setting" in make_mistake(script, ["training.lerning_rate=1"])
    again = ["training.resume_from_checkpoint=true", "training.logging_strategy=steps", "training.logging_steps=0"]
    assert "training.logging_steps=0.0 is too small" in make_mistake(script, again)


@pytest.mark.skipif(os.name != "posix", reason="a home folder is named otherwise")
def test_a_folder_at_home_is_at_home(make_mistake, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert f"{tmp_path / 'mine'} holds a run already" in make_mistake("lm", ["training.output_dir=~/mine"])

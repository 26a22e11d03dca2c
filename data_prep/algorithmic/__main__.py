"""Show the equations of an experiment: how many each split has, and the first of them as the model gets them.

usage: python -m data_prep.algorithmic CONFIG [section.key=value ...]
"""

from command_line.run import run_script
from data_prep.show import print_row
from settings.experiment import AlgorithmicExperiment
from settings.loading import load_experiment
from settings.schema import section_fields

from .equations import prepare_equations
from .operations import SHOWN_EQUATIONS


def main(path: str, overrides: list[str]):
    """Print the number of equations in each split, and the first of them as the model receives them."""
    experiment = load_experiment(path, overrides, AlgorithmicExperiment).replicated()[0]  # before the heavy imports

    from data_prep.collator import CausalLMCollator

    default_seed = section_fields("training", AlgorithmicExperiment)["seed"].default
    equations = prepare_equations(experiment.data, experiment.training.get("seed", default_seed))
    collate = CausalLMCollator(equations.tokenizer.pad_token_id)
    for split, examples in equations.splits.items():
        print(f"\n{split}: {len(examples):,} equations, the longest of all {equations.length} tokens")
        batch = collate(examples[:SHOWN_EQUATIONS])
        for row, (prompt, answer) in enumerate(equations.texts[split][:SHOWN_EQUATIONS]):
            print(f"\n{prompt} {answer}")
            print_row(row, {name: tensor[row].tolist() for name, tensor in batch.items()}, equations.tokenizer)


if __name__ == "__main__":
    run_script(__doc__, main, AlgorithmicExperiment)

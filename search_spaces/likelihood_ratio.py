"""What a search of the likelihood ratio tries. Names and units are those of
`LikelihoodRatioConfig`.

Ren et al. (2019) choose mutation rate (.1, .2, .3) and the background's regularisation alone; the
ranges contain these. The sizes decide what a step costs and are around what a CPU can train, the
learning rate around what short trainings need.
"""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings through an Optuna trial: name -> value, a field of the configuration."""
    return {
        "mutation_rate": trial.suggest_float("mutation_rate", 0.05, 0.5),
        # Half of the weights are gone after .7 / (lr x decay) steps: .01 is nothing in a short
        # training, and at 10 a background learns little more than the frequency of each value.
        "background_weight_decay": trial.suggest_float(
            "background_weight_decay", 0.01, 10.0, log=True
        ),
        "mixtures": trial.suggest_categorical("mixtures", [1, 3, 5, 10]),
        "resolutions": trial.suggest_int("resolutions", 1, 3),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "lr": trial.suggest_float("lr", 1e-3, 1e-2, log=True),
    }

"""What a search of typicality tries. Names and units are those of `TypicalityConfig`.

Kingma and Dhariwal (2018) train 32 steps a level with 512 channels and a rate of 1e-3, the public
code that repeats Nalisnick et al. (2019) 8 and 16 steps with 400 and 200 channels. The sizes decide
what a step costs and are those a CPU can train, the rates go up to what short trainings need.

`levels` are at most so many: images whose sides are even once only, as 30 x 30, have one whatever
is drawn, those of 28 x 28 two instead of three.
"""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings through an Optuna trial: name -> value, each of `TypicalityConfig`."""
    return {
        "steps": trial.suggest_int("steps", 4, 16),
        "hidden": trial.suggest_int("hidden", 32, 128, log=True),
        "levels": trial.suggest_int("levels", 1, 3),
        "coupling": trial.suggest_categorical("coupling", ["affine", "additive"]),
        "lr": trial.suggest_float("lr", 2e-4, 5e-3, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-7, 1e-3, log=True),
    }

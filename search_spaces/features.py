"""What a search of frozen features tries. Names and units are those of `FeaturesConfig`.

Which backbones are at hand depends on the machine, so that the backbone is held fixed: `--fix
backbone=resnet18`, or a space of your own.
"""

from typing import Any

# Among the best of 21 by benchmarks/known_features.py for pictures of things that lie anywhere, far
# ahead of the default, which knows where in a picture what is normal.
_WHOLE = {
    "model": "mean",
    "layers": "3+4",
    "pooling": "mean",
    "contrast_normalization": False,
}
KNOWN = ({**_WHOLE, "scale": 1.5}, {**_WHOLE, "scale": 1.0})


def space(trial: Any) -> dict[str, Any]:
    """Suggest settings through an Optuna trial: name -> value, each a field of
    `FeaturesConfig`."""
    settings: dict[str, Any] = {}
    settings["model"] = trial.suggest_categorical("model", ["coreset", "gaussians", "mean"])
    settings["scale"] = trial.suggest_categorical("scale", [0.5, 0.75, 1.0, 1.5])
    settings["contrast_normalization"] = trial.suggest_categorical(
        "contrast_normalization", [False, True]
    )
    settings["layers"] = trial.suggest_categorical("layers", ["2", "3", "2+3", "3+4", "2+3+4"])
    if settings["model"] == "mean":
        settings["pooling"] = trial.suggest_categorical("pooling", ["mean", "mean+std"])
        return settings
    settings["neighbourhood"] = trial.suggest_categorical("neighbourhood", [1, 3, 5])
    if settings["model"] == "gaussians":
        if settings["layers"] != "2":  # of the default network 40 values, all of them are taken
            settings["dims"] = trial.suggest_int("dims", 24, 128, log=True)
        return settings
    settings["metric"] = trial.suggest_categorical("metric", ["mahalanobis", "euclidean"])
    # Choosing 10,000 of 100,000 patches takes a core a minute, and comparing with them as long.
    settings["coreset"] = trial.suggest_float("coreset", 0.002, 0.02, log=True)
    settings["neighbours"] = trial.suggest_int("neighbours", 1, 5)
    settings["reweighting"] = trial.suggest_categorical("reweighting", [0, 3, 9])
    return settings

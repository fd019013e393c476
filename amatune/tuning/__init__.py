"""The search and the retraining: Ray Tune trains, Optuna proposes and remembers."""

from amatune.extras import require_extra

require_extra("search", "optuna")  # a report reads studies too, and does without Ray

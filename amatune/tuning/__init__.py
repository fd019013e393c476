"""The search and the retraining: Ray Tune trains, Optuna proposes and remembers."""

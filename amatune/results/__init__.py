"""What figures mean: scores, choices, intervals, tables. Needs neither Ray nor Optuna."""

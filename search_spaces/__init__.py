"""What a search of each method tries: one file per method, `def space(trial)`."""
